"""`train target` on a tiny data set: learns, resumes to the bit, writes a whole checkpoint."""

from dataclasses import replace
import json

import numpy as np
import pytest
import torch

from specvla_ros.errors import SpecVLAError
from specvla_ros.files import alone_in
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training import train_target
from specvla_ros.training.dataset import action_statistics, Dataset, Frames
from specvla_ros.training.optimizer import OptimizerSettings
from specvla_ros.training.saved_state import state_folder, StateFolder
from specvla_ros.training.shape import forget_words, new_target
from specvla_ros.training.target_batches import Augmentation, NONE, StateScale, TargetBatchMaker
from specvla_ros.training.target_loss import StateHeads
from specvla_ros.training.tokenizer import build_tokenizer
from specvla_ros.training.train_target import make_trainer, run, TrainTargetArgs
from specvla_ros.training.trainer import Trainer
from test.training.conftest import OF_INIT, SUITE, TINY, write_episode
from test.training.drafter_data import write_target


@pytest.fixture
def args(data, tmp_path):
    return TrainTargetArgs(
        out=tmp_path / 'target', suite=SUITE, data=data, epochs=2, batch=16, lanes=2,
        dtype='float32', holdout=0.0, text_tokens=300, shape=TINY, evaluate=60,
        optimizer=OptimizerSettings(learning_rate=3e-3), augmentation=Augmentation(shift=1))


def weights(folder) -> dict[str, torch.Tensor]:
    return OpenVLA.from_pretrained(folder).state_dict()


def curve(args) -> list[dict]:
    path = args.out.with_name(args.out.name + '.training') / 'curve.jsonl'
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_leaves_a_checkpoint_that_loads(args, monkeypatch):
    args = replace(args, epochs=12, holdout=0.3, eval_frames=16, augmentation=NONE)
    losses = []
    step = Trainer.step

    def watched(self, done):
        found = step(self, done)
        losses.append(float(found[0].tokens))
        return found

    monkeypatch.setattr(Trainer, 'step', watched)
    run(args)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    model = OpenVLA.from_pretrained(args.out)
    assert model.action_dim() == 7
    assert sorted(model.norm_stats) == [SUITE]
    statistics = json.loads((args.out / 'dataset_statistics.json').read_text())
    assert statistics[SUITE]['action']['mask'] == [True] * 6 + [False]
    assert not list(args.out.parent.glob('*.part'))


def test_the_same_seed_gives_the_same_weights(args, tmp_path):
    for out in ('a', 'b'):
        run(replace(args, out=tmp_path / out, epochs=1))
    run(replace(args, out=tmp_path / 'c', epochs=1, seed=1))
    assert_same(weights(tmp_path / 'a'), weights(tmp_path / 'b'))
    assert not torch.equal(weights(tmp_path / 'a')['lm_head.weight'],
                           weights(tmp_path / 'c')['lm_head.weight'])


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_resumed_training_ends_with_identical_weights(args, tmp_path, monkeypatch, dtype):
    args = replace(args, dtype=dtype)
    whole = replace(args, out=tmp_path / 'whole')
    run(whole)
    # Interrupted in the middle of an epoch, by a signal as it were, with a saved state.
    step = Trainer.step

    def interrupted(self, done):
        if self.optimizer.steps == 6:
            self.save()
            raise KeyboardInterrupt
        return step(self, done)

    monkeypatch.setattr(Trainer, 'step', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(args)
    monkeypatch.setattr(Trainer, 'step', step)
    run(replace(args, resume=True))
    assert_same(weights(whole.out), weights(args.out))


def test_a_second_training_into_the_same_folder_is_refused_before_it_reads_state_or_data(
        args, monkeypatch):
    state = args.out.with_name(args.out.name + '.training')
    with monkeypatch.context() as reads, alone_in(state):
        reads.setattr(StateFolder, 'load', None)  # would raise TypeError
        reads.setattr(train_target, 'TargetRecipe', None)
        with pytest.raises(SpecVLAError, match='another process is writing to .*[.]training; '
                                               'wait for it, or give --out another folder'):
            run(args)
        assert not list(state.iterdir())
    assert not state.exists()  # nothing was left
    assert run(args) == 0


def test_a_training_holds_its_folder_from_before_it_reads_the_state(args, monkeypatch):
    load, refused = StateFolder.load, []

    def second_comes_now(folder, *args):
        with pytest.raises(SpecVLAError, match='another process is writing to'):
            with folder.held():
                refused.append('late')
        refused.append('rightly')
        return load(folder, *args)

    monkeypatch.setattr(StateFolder, 'load', second_comes_now)
    assert run(args) == 0 and refused == ['rightly']


def test_episodes_that_arrive_meanwhile_are_trained_on(args, data, monkeypatch):
    step = Trainer.step

    def collecting(self, done):
        if self.optimizer.steps == 3:
            for seed in range(50, 55):
                write_episode(data, task=0, seed=seed)
        return step(self, done)

    monkeypatch.setattr(Trainer, 'step', collecting)
    run(args)
    assert curve(args)[-1]['frames'] == 120


def test_training_goes_on_from_a_checkpoint(args, tmp_path):
    run(replace(args, epochs=1))
    run(replace(args, out=tmp_path / 'more', init=args.out, epochs=1, freeze_vision=True,
                **OF_INIT))
    before, after = weights(args.out), weights(tmp_path / 'more')
    frozen = [name for name in before if name.startswith('vision.')]
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before['lm_head.weight'], after['lm_head.weight'])


def test_training_goes_on_with_another_suite_whose_statistics_and_words_are_new(
        args, data, tmp_path, capsys):
    run(replace(args, epochs=1))
    (data / SUITE).rename(data / 'libero_spatial')
    for path in sorted((data / 'libero_spatial').rglob('seed*.npz')):
        with np.load(path, allow_pickle=True) as file:
            content = dict(file)
        action = content['action'] * np.float32([0.5] * 6 + [1])
        np.savez(path, **content | {'action': action, 'instruction': 'put the bowl on the stove'})
    more = replace(args, out=tmp_path / 'more', init=args.out, suite='libero_spatial', epochs=1,
                   freeze_vision=True, new_words=True, **OF_INIT)
    run(more)
    assert 'has no statistics of libero_spatial: measured on these' in capsys.readouterr().out
    old, new = (OpenVLA.from_pretrained(folder) for folder in (args.out, more.out))
    assert sorted(new.norm_stats) == ['libero_spatial']
    q99 = new.norm_stats['libero_spatial']['action']['q99'][0]
    assert q99 == pytest.approx(old.norm_stats[SUITE]['action']['q99'][0] / 2)
    instruction = 'put the bowl on the stove'
    assert len(new.prompt_ids(instruction)) < len(old.prompt_ids(instruction))
    # Its own suite again: statistics are as they were, and nothing is said.
    run(replace(more, out=tmp_path / 'last', init=more.out, **OF_INIT, new_words=False))
    assert 'no statistics' not in capsys.readouterr().out


def test_new_words_leave_bytes_and_actions_as_they_are(args):
    run(replace(args, epochs=1))
    model, old = (OpenVLA.from_pretrained(args.out) for _ in range(2))
    first = model.action_tokenizer.first_id
    forget_words(model, build_tokenizer(['a word'], first), seed=0)
    for name in ('language_model.embed_tokens.weight', 'lm_head.weight'):
        changed = (model.get_parameter(name) != old.get_parameter(name)).any(1).nonzero()
        assert (changed.min(), changed.max()) == (259, first - 1)


def test_new_words_are_refused_where_they_would_stay_random_or_words_be_lost(args, tmp_path):
    new = replace(args, out=tmp_path / 'new', init=write_target(tmp_path / 'base'), new_words=True,
                  **OF_INIT)
    for change in ({'lora': 4}, {'vision_only': True}):
        with pytest.raises(SpecVLAError, match='random embeddings, and neither --lora nor --vis'):
            run(replace(new, **change))
    tokenizer = new.init / 'tokenizer.json'
    tokenizer.write_text(tokenizer.read_text().replace('<action_', '<other_'))
    with pytest.raises(SpecVLAError, match='base is not one of `specvla train target`, and its'):
        run(new)
    assert not new.out.exists()


def add_state(path, numbers):
    """Replace an episode's privileged state."""
    with np.load(path, allow_pickle=True) as file:
        content = dict(file)
    np.savez(path, **content | {'state': np.asarray(numbers, np.float32)})


def squares(episodes, scale):
    """Mean squares of the standardised states [S] over episodes."""
    state = np.concatenate([episode.state for episode in episodes])
    return (((state - scale.mean) / scale.deviation) ** 2).mean(0)


def test_a_thing_that_hardly_moves_does_not_drown_the_others_when_it_is_knocked(data):
    """As LIBERO's basket, which stands within 0.6 mm until an arm lifts it by 6 cm."""
    random = np.random.default_rng(0)
    for path in sorted((data / SUITE).rglob('*.npz')):
        arm, basket = random.normal(0, 0.1, (8, 3)), random.normal(0.26, 0.0006, (8, 1))
        add_state(path, np.hstack((arm, basket)))
    dataset = Dataset(data, SUITE, size=32)
    dataset.refresh()
    scale = StateScale.of(dataset.episodes)
    path = write_episode(data, 0, 50)
    add_state(path, np.hstack((random.normal(0, 0.1, (8, 3)), np.full((8, 1), 0.32))))
    dataset.refresh()
    knocked = squares(dataset.episodes[-1:], scale)
    assert knocked[3] < 50  # it was 10,000
    assert (squares(dataset.episodes, scale) < 5).all()
    np.testing.assert_allclose(scale.deviation[:3], 0.1, rtol=0.2)


def test_states_are_scaled_by_all_episodes_there_are_by_now(args, data):
    """The first episodes may be of one task, and all others far from them."""
    recipe = make_trainer(args).recipe
    assert (np.abs(squares(recipe.dataset.episodes, recipe.maker.scale) - 1) < 0.01).all()
    for seed in range(60, 65):
        path = write_episode(data, 1, seed)
        add_state(path, np.random.default_rng(seed).normal(30, 1, (8, 4)))
    assert recipe.refresh(at_end=True)
    assert (np.abs(squares(recipe.dataset.episodes, recipe.maker.scale) - 1) < 0.01).all()


def test_the_heads_must_tell_the_ways_from_hand_to_thing_to_aim(args, data):
    """They stay the same in a shifted picture, and an action follows from them."""
    random = np.random.default_rng(0)
    for path in sorted((data / SUITE).rglob('*.npz')):
        add_state(path, random.normal(0, 0.1, (8, 10)))
    recipe = make_trainer(args).recipe
    told = recipe.maker(recipe.frames, np.arange(3), random, NONE).state[:, 0].numpy()
    scale = recipe.maker.scale
    told = told * scale.deviation + scale.mean
    assert told.shape == (3, 16)
    assert recipe.network.heads.state == 16
    np.testing.assert_allclose(told[:, 10:13], told[:, 3:6] - told[:, :3], atol=1e-6)
    np.testing.assert_allclose(told[:, 13:], told[:, 6:9] - told[:, 3:6], atol=1e-6)


def state_losses(monkeypatch, args):
    """Train; return the loss of the states, step by step."""
    losses, step = [], Trainer.step

    def watched(self, done):
        found = step(self, done)
        losses.append(found[0].state)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, 'step', watched)
        run(args)
    return losses


def test_the_state_heads_learn_from_frozen_towers_and_the_next_training_goes_on_from_them(
        args, tmp_path, monkeypatch, capsys):
    run(replace(args, epochs=1))
    state_folder(args.out).rename(tmp_path / 'elsewhere')
    frozen = replace(args, out=tmp_path / 'frozen', init=args.out, **OF_INIT, freeze_vision=True,
                     epochs=12, optimizer=OptimizerSettings(learning_rate=0.02))
    losses = state_losses(monkeypatch, frozen)
    # Heads begin anew, at the mean: about 0.8 deviations off each.
    assert 1 < float(losses[0]) < 2.5
    first, last = (float(torch.stack(part).mean()) for part in (losses[:5], losses[-5:]))
    assert last < 0.7 * first
    assert 'state heads' not in capsys.readouterr().out
    more = replace(frozen, out=tmp_path / 'more', init=frozen.out)
    assert float(torch.stack(state_losses(monkeypatch, more)[:3]).mean()) < (first + last) / 2
    assert f'the state heads are those of {frozen.out}.training' in ' '.join(
        capsys.readouterr().out.split())
    (state_folder(frozen.out) / 'state.pt').write_bytes(b'damaged')
    again = state_losses(monkeypatch, replace(more, out=tmp_path / 'again'))
    assert 1 < float(again[0]) < 2.5


def test_state_heads_take_what_was_taught_of_the_instructions_they_share():
    """Numbers of the state 3, of the patches' features 4; `b` moves from place 1 to 0."""
    taught, heads = StateHeads(4, 2, 3, tasks=2), StateHeads(4, 2, 3, tasks=2)
    torch.nn.init.normal_(taught.patches.weight)
    torch.nn.init.normal_(taught.prompt.weight)
    new = heads.patches.bias[6:].clone()
    assert heads.go_on_from(taught.state_dict(), ['a', 'b'], ['b', 'c'])
    assert_same({'prompt': heads.prompt.weight, 'all': heads.patches.weight[:3],
                 'b': heads.patches.weight[3:6], 'bias': heads.patches.bias[3:6],
                 'c': heads.patches.weight[6:], 'its bias': heads.patches.bias[6:]},
                {'prompt': taught.prompt.weight, 'all': taught.patches.weight[:3],
                 'b': taught.patches.weight[6:], 'bias': taught.patches.bias[6:],
                 'c': torch.zeros(3, 4), 'its bias': new})
    before = {name: value.clone() for name, value in heads.state_dict().items()}
    for features, hidden, state in ((5, 2, 3), (4, 3, 3), (4, 2, 2)):
        others = StateHeads(features, hidden, state, tasks=2)
        assert not heads.go_on_from(others.state_dict(), ['a', 'b'], ['b', 'c'])
    assert not heads.go_on_from({}, [], ['b', 'c'])
    assert_same(heads.state_dict(), before)


def test_states_without_weight_are_not_measured(args, tmp_path, monkeypatch, capsys):
    """Nothing teaches the heads then: they would say the mean for ever, a loss of about 2."""
    assert set(state_losses(monkeypatch, replace(args, state_weight=0.0))) == {None}
    assert curve(args)[-1]['state_loss'] is None
    assert 'state ' not in capsys.readouterr().out


def test_a_batch_holds_the_prompt_and_the_tokens_inference_has(args, data):
    training = make_trainer(args).recipe
    maker, frames = training.maker, training.frames
    batch = maker(frames, np.arange(0, 80, 9), np.random.default_rng(0), NONE)
    for row, index in enumerate(range(0, 80, 9)):
        episode, frame = frames.locate(index)
        prompt = training.model.prompt_ids(episode.instruction)
        length = len(prompt)
        assert batch.input_ids[row, :length].tolist() == prompt.tolist()
        assert batch.prompt_ends[row] == length - 1
        tokens = batch.labels[row, 0].tolist()
        assert batch.input_ids[row, length:length + 6].tolist() == tokens[:6]
        action = training.statistics.unnormalize(maker.tokenizer.decode(tokens))
        np.testing.assert_allclose(action[:6], episode.action[frame, :6].clip(
            training.statistics.q01[:6], training.statistics.q99[:6]), atol=0.01)


def test_jitter_leaves_labels_and_gripper_alone(data):
    dataset = Dataset(data, SUITE, size=32)
    dataset.refresh()
    frames = Frames.of(dataset.episodes)
    model = new_target(TINY, build_tokenizer(['a'], 300), 300, 0)
    maker = TargetBatchMaker(model, action_statistics(dataset.episodes),
                       StateScale.of(dataset.episodes), [])
    indices = np.arange(32)
    plain = maker(frames, indices, np.random.default_rng(0), NONE)
    moved = maker(frames, indices, np.random.default_rng(0), Augmentation(0, 0.0, jitter=6))
    assert torch.equal(plain.labels, moved.labels)
    assert torch.equal(plain.pixel_values, moved.pixel_values)
    difference = (plain.input_ids - moved.input_ids).abs()
    assert 0 < difference.max() <= 6
    prompt = int(plain.prompt_ends[0, 0]) + 1
    assert difference[0, :prompt].max() == 0


@pytest.mark.parametrize(('change', 'message'), [
    ({'batch': 15}, 'batch 15 must be a multiple of lanes 2'),
    ({'dtype': 'float16'}, 'must be bfloat16 or float32'),
    ({'minutes': 0, 'epochs': 0}, 'one must be positive'),
    ({'freeze_vision': True}, 'needs --init'),
    ({'minutes': 1.0, 'epochs': 3.0}, '--epochs 3 has no effect: the training ends after --min'),
    ({'init': 'libero_object'}, '--text-tokens 300 has no effect: dimensions and tokenizer are'),
    ({'init': 'libero_object', 'text_tokens': 384}, '--shape.image-size 32 has no effect: dim'),
    ({'new_words': True}, 'about the tokenizer of --init'),
    ({'failed_steps': -1}, '--failed-steps -1: give a number of steps, or 0 for no frames'),
    ({'resume': True}, 'nothing to resume'),
    ({'tasks': (9,)}, 'no successful episodes under'),
])
def test_bad_settings_get_one_clear_line(args, change, message):
    with pytest.raises(SpecVLAError, match=message) as error:
        run(replace(args, **change))
    assert '\n' not in str(error.value)


def test_an_unfinished_training_is_not_overwritten(args):
    run(replace(args, epochs=1))
    with pytest.raises(SpecVLAError, match='add --resume'):
        run(args)
    with pytest.raises(SpecVLAError, match='--resume with seed 5'):
        run(replace(args, resume=True, seed=5))
    with pytest.raises(SpecVLAError, match='--resume with failed_steps 4'):
        run(replace(args, resume=True, failed_steps=4))
    path = args.out.with_name('target.training') / 'state.pt'
    content = torch.load(path, weights_only=True)
    torch.save(content | {'recipe': {}}, path)
    with pytest.raises(SpecVLAError, match=r"state.pt lacks \['episodes', 'instructions'"):
        run(replace(args, resume=True))


@pytest.mark.parametrize(('able', 'dtype'), [
    ({'avx512_bf16': True}, 'bfloat16'), ({'amx_bf16': True}, 'bfloat16'),
    ({'avx512_bf16': False, 'avx2': True}, 'float32'), ({}, 'float32'),
])
def test_it_computes_in_bfloat16_where_the_cpu_has_instructions_for_it(
        args, monkeypatch, able, dtype):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: able)
    run(replace(args, dtype='auto', epochs=1))
    state = torch.load(args.out.with_name('target.training') / 'state.pt', weights_only=True)
    assert state['settings']['dtype'] == dtype
