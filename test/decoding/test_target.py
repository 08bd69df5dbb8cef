"""A session's cache, positions and masks, against the same tokens run from scratch."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from specvla_ros.decoding.acceptance import Acceptance
from specvla_ros.decoding.cache import StaticCache
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.decoding.target import Target
from specvla_ros.decoding.tree import Accepted, TokenTree
from specvla_ros.situation import UNKNOWN


def random_tree(random, first_id):
    paths = [
        random.integers(first_id, first_id + 3, size=random.integers(0, 5)).tolist()
        for _ in range(random.integers(0, 6))
    ]
    return TokenTree.from_paths(paths)


def path_to(tree, node):
    """Nodes from the root's child down to a node; of the root itself, -1, none."""
    return tree.ancestor_mask[node].nonzero().flatten().tolist() if node >= 0 else []


class Unfused:
    """A cache's writer as the unfused layers ask for it: keys and values apart."""

    def __init__(self, writer):
        self.writer = writer

    def update(self, key, value, layer_idx, *_):
        return self.writer.put(torch.stack((key[0], value[0])).permute(2, 0, 1, 3), layer_idx)


def from_scratch(model, prompt, tokens):
    """Hidden states of prompt and tokens, and the cache a plain causal pass leaves."""
    text = model.config.text_config
    cache = StaticCache(
        text.num_hidden_layers, text.num_key_value_heads, text.head_dim, model.dtype, model.device
    )
    inputs = torch.cat((prompt, model.embed_tokens(torch.tensor([tokens]).long())), dim=1)
    rows = torch.arange(inputs.shape[1])
    cache.reserve(len(rows))
    causal = (cache.columns <= rows[:, None])[None, None]
    hidden = model(inputs, attention_mask=causal, cache=Unfused(cache.at(rows)))
    cache.advance(len(rows))
    return inputs, hidden, cache


@given(
    seed=st.integers(0, 2**20), kv_heads=st.sampled_from([2, 4]),
    runner=st.sampled_from(['plain', 'graphs']), features=st.booleans(),
)
@settings(max_examples=40, deadline=None)
@torch.inference_mode()
def test_a_session_of_tree_passes_equals_plain_passes(seed, kv_heads, runner, features, lab):
    """Prefill, commit and verify random trees; each row is what one plain pass says there."""
    random = np.random.default_rng(seed)
    it = lab(seed % 4, 7, 1, kv_heads)
    model, target = it.model, Target(it.model, lab.runners[runner]())
    first_id = model.action_tokenizer.first_id
    prompt, tokens = target.embed(*it.prompt), []
    tree = random_tree(random, first_id)
    verified = target.prefill(prompt, tree, features)
    pairs = []
    for _ in range(4):
        # Row 0 follows all that is known; row i + 1 follows node i's path.
        for node in range(-1, len(tree)):
            path = tree.tokens[path_to(tree, node)].tolist()
            _, hidden, _ = from_scratch(model, prompt, tokens + path)
            logits = target.action_logits(hidden[0, -1])
            torch.testing.assert_close(verified.logits[node + 1], logits, rtol=1e-6, atol=1e-6)
            assert int(verified.argmax[node + 1]) == first_id + int(logits.argmax())
        # Keep any path and any bonus: what a rule decides is not the target's business.
        nodes = path_to(tree, int(random.integers(-1, len(tree))))
        accepted = tree.tokens[nodes].tolist()
        bonus = int(random.integers(first_id, first_id + 9))
        target.commit(Accepted(tuple(nodes), tuple(accepted), bonus))
        inputs, hidden, cache = from_scratch(model, prompt, tokens + accepted)
        stop = cache.length
        assert target.cache.length == stop
        torch.testing.assert_close(
            target.cache.storage[..., :stop, :], cache.storage[..., :stop, :], rtol=1e-6, atol=1e-6
        )
        tokens += [*accepted, bonus]
        if not features:
            with pytest.raises(RuntimeError, match='kept no features'):
                target.new_pairs()
        elif random.random() < 0.7:  # a drafter may leave a pass out: nothing is lost
            pairs.append(target.new_pairs())
            embeds = torch.cat((inputs[:, 1:], model.embed_tokens(torch.tensor([[bonus]]))), 1)
            for name, whole in (('features', hidden), ('embeds', embeds)):
                handed = torch.cat([getattr(pair, name) for pair in pairs], dim=1)
                torch.testing.assert_close(handed, whole, rtol=1e-6, atol=1e-6)
            assert pairs[-1].start == sum(pair.features.shape[1] for pair in pairs[:-1])
            assert target.new_pairs() is None
        tree = random_tree(random, first_id)
        verified = target.verify(tree)


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
@torch.inference_mode()
def test_a_pass_that_is_not_finite_is_an_error(lab, bad):
    it = lab(0, 7, 1)
    target = Target(it.model)
    prompt = target.embed(*it.prompt)
    prompt[0, 0, 0] = bad
    tree = TokenTree.empty()
    verified = target.prefill(prompt, tree)
    with pytest.raises(ValueError, match='not finite.*float64'):
        acceptance = Acceptance(Strict(), None, it.space, target)
        acceptance.accept(tree, verified, [], acceptance.terms(UNKNOWN))
