"""The drafter's training: every guess is the one that drafting would make."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from specvla_ros.decoding.drafters.eagle_config import EagleConfig
from specvla_ros.decoding.drafters.eagle_head import EagleHead
from specvla_ros.hashing import folder_sha256
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training.dataset import Episode
from specvla_ros.training.eagle_batches import EagleBatchMaker, NONE, Perturbation
from specvla_ros.training.holdout import divide
from specvla_ros.training.regenerate import run
from specvla_ros.training.regenerated import open_shards, ShardFrames
from specvla_ros.training.unroll import distances, eagle_loss, LossWeights, unroll
from test.training.drafter_data import regenerate_args, write_target


@pytest.fixture
def case(tmp_path, data):
    """Model, random head, frames of two instructions (prompts of two lengths), their batch."""
    target = write_target(tmp_path / 'target')
    args = regenerate_args(tmp_path, data)
    run(args)
    model = OpenVLA.from_pretrained(target).requires_grad_(False)
    _, shards = open_shards(args.out, folder_sha256(target))
    frames = ShardFrames(shards)
    torch.manual_seed(0)
    head = EagleHead(EagleConfig.like(model))
    maker = EagleBatchMaker(model, torch.float32)
    indices = np.array([2, 70, 41, 13])
    batch = maker(frames, indices, np.random.default_rng(0), NONE)
    return SimpleNamespace(model=model, head=head, frames=frames, maker=maker, indices=indices,
                           batch=batch)


def test_frames_are_found_by_their_running_index(case):
    frames = case.frames
    found = [frames.locate(index) for index in range(len(frames))]
    wanted = [(s.name, frame) for s in frames.shards for frame in range(len(s))]
    assert [(shard.name, frame) for shard, frame in found] == wanted


def test_prompts_of_two_lengths_are_padded_on_the_left(case):
    sizes = [len(case.frames.locate(i)[0].records['prompt'][0]) - 1 for i in case.indices]
    assert len(set(sizes)) == 2
    assert case.batch.real.sum(1).tolist() == sizes
    for size, positions in zip(sizes, case.batch.positions, strict=True):
        rows = size + case.batch.action_rows
        assert positions[-rows:].tolist() == list(range(rows))


@torch.no_grad()
def test_every_guess_is_the_one_a_draft_chain_makes(case):
    """Row q of depth d: prefill with the target's features up to q, then d guesses in a chain."""
    depths, prompt = unroll(case.head, case.batch, prompt=True)
    alone, _ = unroll(case.head, case.batch)
    for with_prompt, without in zip(depths, alone, strict=True):
        torch.testing.assert_close(with_prompt, without)
    assert len(depths) == 6
    for row, real in enumerate(case.batch.real.sum(1).tolist()):
        rows = slice(case.batch.real.shape[1] - real, None)
        features, embeds = case.batch.features[row, rows], case.batch.embeds[row, rows]
        causal = case.head(features[None, :real], embeds[None, :real], torch.arange(real)[None])
        torch.testing.assert_close(prompt[row, -real:], causal[0], atol=1e-5, rtol=1e-4)
        for root in range(6):
            cache = DynamicCache()
            known = real + root + 1
            guessed = case.head(features[None, :known], embeds[None, :known],
                                torch.arange(known)[None], None, cache, queries=1)
            for depth in range(6 - root):
                torch.testing.assert_close(
                    depths[depth][row, root], guessed[0, 0], atol=1e-5, rtol=1e-4)
                if depth < 5 - root:
                    guessed = case.head(guessed, embeds[None, known:known + 1],
                                        torch.tensor([[known]]), None, cache)
                    known += 1


def test_the_rows_are_the_pairs_that_decoding_gives_the_drafter(case):
    """Compare with `Target.new_pairs` of the real loop on the same frame."""
    from specvla_ros.decoding.target import Target
    from specvla_ros.decoding.tree import Accepted, TokenTree
    shard, frame = case.frames.locate(int(case.indices[1]))
    record = shard.records[frame]
    tokens = record['tokens'][0].tolist()
    patches = torch.from_numpy(np.array(record['patches'])).float()
    text = case.model.embed_tokens(case.model.prompt_ids(shard.instruction))
    prompt = torch.cat((text[:1], patches, text[1:]))[None]
    target = Target(case.model)
    with torch.inference_mode():
        target.prefill(prompt, TokenTree.empty())
        target.commit(Accepted((), (), tokens[0]))
        target.verify(TokenTree.of(np.array(tokens[1:4]), np.array([-1, 0, 1]), source='eagle'))
        target.commit(Accepted((0, 1, 2), tuple(tokens[1:4]), tokens[4]))
        pairs = target.new_pairs()
    count = pairs.features.shape[1]
    padding = int((~case.batch.real[1]).sum())
    rows = slice(padding, padding + count)
    torch.testing.assert_close(
        case.batch.features[1, rows], pairs.features[0].clone(), atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(
        case.batch.embeds[1, rows], pairs.embeds[0].clone(), atol=2e-3, rtol=2e-3)


def test_padding_says_nothing(case):
    """A frame's guesses don't depend on the frames beside it."""
    together, _ = unroll(case.head, case.batch)
    for row, index in enumerate(case.indices):
        batch = case.maker(case.frames, np.array([index]), np.random.default_rng(0), NONE)
        for a, b in zip(together, unroll(case.head, batch)[0], strict=True):
            torch.testing.assert_close(a[row], b[0], atol=1e-5, rtol=1e-4)


def test_a_drafter_with_the_targets_features_has_no_loss(case, monkeypatch):
    """The loss compares each guess with its feature: unsharpened, the true ones give zero."""
    def perfect(head, batch, prompt=False, most=0):
        after = batch.features[:, 1:1 + batch.real.shape[1]]
        return [batch.next_features[:, depth:] for depth in range(batch.action_rows)], after
    monkeypatch.setattr('specvla_ros.training.unroll.unroll', perfect)
    weights = LossWeights(1.0, 1.0, 1.0, temperature=1.0)
    loss = eagle_loss(case.head, case.maker.action_head, case.batch, weights)
    assert float(loss.total) == pytest.approx(0, abs=1e-5)
    off = distances(case.head, case.maker.action_head, case.batch)
    assert off.shape == (4, 6, 6)
    assert ((off == 0) == torch.ones(6, 6).triu().bool()).all()


def test_the_gradient_reaches_all_weights_through_all_depths(case):
    loss = eagle_loss(case.head, case.maker.action_head, case.batch, LossWeights(1, 1, 1))
    loss.total.backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0
               for p in case.head.parameters())


def test_perturbation_changes_paths_and_noise_only(case):
    random = np.random.default_rng(1)
    other = case.maker(case.frames, case.indices, random, Perturbation(own_share=0, noise=0.2))
    assert torch.equal(other.positions, case.batch.positions)
    assert (other.logits.argmax(-1) != case.batch.logits.argmax(-1)).any()
    rows = case.batch.real.shape[1]
    assert torch.equal(other.embeds[:, :rows - 1], case.batch.embeds[:, :rows - 1])
    noise = (other.features - case.batch.features)[:, :rows][case.batch.real]
    assert 0 < noise.abs().max() <= 0.2 * case.batch.features.std() * 1.5


def test_held_out_episodes_are_the_targets(case):
    episodes = [Episode(shard.name, '', *(np.zeros((1, 1)),) * 3) for shard in case.frames.shards]
    for share in (0.0, 0.3, 0.5, 1.0):
        names = [[[it.name for it in part] for part in divide(items, share)]
                 for items in (case.frames.shards, episodes)]
        assert names[0] == names[1]
