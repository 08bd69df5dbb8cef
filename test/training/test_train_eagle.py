"""`train eagle` on a tiny target: learns its words, resumes to the bit, decodes."""

from dataclasses import replace
import json

import numpy as np
import pytest
from safetensors.torch import load_file
import torch

from specvla_ros.decoding.drafters import EagleConfig, EagleHead
from specvla_ros.errors import SpecVLAError
from specvla_ros.hashing import folder_sha256
from specvla_ros.loaded_checkpoint import Checkpoint
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training.accuracy import DepthAccuracy
from specvla_ros.training.dataset import Dataset
from specvla_ros.training.drafter_measures import acceptance_lengths, ConstantDrafter
from specvla_ros.training.holdout import is_held_out
from specvla_ros.training.optimizer import OptimizerSettings
from specvla_ros.training.regenerate import run as regenerate
from specvla_ros.training.regenerated import open_shards
from specvla_ros.training.train_eagle import run, TrainEagleArgs
from specvla_ros.training.trainer import Trainer
from test.training.conftest import SUITE, write_episode
from test.training.drafter_data import regenerate_args, write_target


@pytest.fixture
def args(tmp_path, data):
    target = write_target(tmp_path / 'target')
    regenerate(regenerate_args(tmp_path, data))
    return TrainEagleArgs(
        target=target, out=tmp_path / 'drafter', regenerated=tmp_path / 'words', data=data,
        epochs=3, batch=16, holdout=0.0, evaluate=60, decode_frames=4,
        optimizer=OptimizerSettings(learning_rate=3e-3))


def weights(folder):
    return load_file(folder / 'model.safetensors')


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_the_deployed_decoder_gains_by_it(args, capsys):
    before = replace(args, epochs=0.2, out=args.out.with_name('before'), holdout=0.3)
    run(before)
    run(replace(args, epochs=30, holdout=0.3))
    drafter = EagleHead.from_pretrained(args.out, OpenVLA.from_pretrained(args.target))
    assert drafter.config.hidden_size == 32
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split('loss ')[1].split()[0]) for line in lines if ' loss ' in line]
    assert losses[-1] < 0.7 * losses[0]
    last = [line for line in lines if line.startswith('held-out acceptance length strict ')]
    assert len(last) == 2 and lines[-1] == last[-1] and ', relaxed ' in last[-1]
    assert [line[:7] for line in lines[-8:-1]] == [
        *(f'depth {depth}' for depth in range(1, 7)), 'drafter']
    card = json.loads((args.out / 'training.json').read_text())
    assert len(card['target_sha256']) == 64 and len(card['measured']['held_out_exact']) == 6
    assert not list(args.out.parent.glob('*.part'))


def test_the_same_seed_gives_the_same_weights(args, tmp_path):
    for out, seed in (('a', 0), ('b', 0), ('c', 1)):
        run(replace(args, out=tmp_path / out, seed=seed))
    assert_same(weights(tmp_path / 'a'), weights(tmp_path / 'b'))
    assert not torch.equal(weights(tmp_path / 'a')['fc.weight'],
                           weights(tmp_path / 'c')['fc.weight'])


def test_a_failed_episode_that_is_held_out_is_decoded_as_far_as_the_target_said(
        tmp_path, data, capsys):
    name = 'task0/seed123'
    assert is_held_out(name, 0.02)
    write_episode(data, task=0, seed=123, success=False)
    target = write_target(tmp_path / 'target')
    regenerate(regenerate_args(tmp_path, data, failed_steps=3))
    run(TrainEagleArgs(
        target=target, out=tmp_path / 'drafter', regenerated=tmp_path / 'words', data=data,
        epochs=0.5, batch=16, holdout=0.02, decode_frames=100))
    out = capsys.readouterr().out
    assert ' 80 training frames of 10 episodes, 3 frames held out' in out
    assert out.splitlines()[-1].startswith('held-out acceptance length strict ')


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_resumed_training_ends_with_identical_weights(args, tmp_path, monkeypatch, dtype):
    args = replace(args, dtype=dtype)
    whole = replace(args, out=tmp_path / 'whole')
    run(whole)
    step = Trainer.step

    def interrupted(self, done):
        if self.optimizer.steps == 7:
            self.save()
            raise KeyboardInterrupt
        return step(self, done)

    monkeypatch.setattr(Trainer, 'step', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(args)
    monkeypatch.setattr(Trainer, 'step', step)
    run(replace(args, resume=True))
    assert_same(weights(whole.out), weights(args.out))


def test_another_targets_words_are_refused(args, tmp_path):
    write_target(tmp_path / 'target', seed=1)
    with pytest.raises(SpecVLAError, match='holds the words of target') as error:
        run(args)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('change', 'message'), [
    ({'batch': 15}, 'batch 15 must be a multiple of lanes 2'),
    ({'dtype': 'float16'}, 'must be bfloat16 or float32'),
    ({'minutes': 0, 'epochs': 0}, 'one must be positive'),
    ({'minutes': 1, 'epochs': 3}, '--epochs 3 has no effect'),
    ({'resume': True}, 'nothing to resume'),
    ({'holdout': 1.0}, 'holds 0 training frames'),
])
def test_bad_settings_get_one_clear_line(args, change, message):
    with pytest.raises(SpecVLAError, match=message) as error:
        run(replace(args, **change))
    assert '\n' not in str(error.value)


def test_missing_data_name_the_command(args, tmp_path):
    with pytest.raises(SpecVLAError, match='`specvla regenerate` makes them'):
        run(replace(args, regenerated=tmp_path / 'nowhere'))


def test_an_unfinished_training_is_not_overwritten(args):
    run(replace(args, epochs=1))
    with pytest.raises(SpecVLAError, match='add --resume'):
        run(args)
    with pytest.raises(SpecVLAError, match='--resume with seed 5'):
        run(replace(args, resume=True, seed=5))


def test_a_constant_target_is_told_apart_from_a_good_drafter(args, data, tmp_path):
    """Whatever its drafter has learned, a target that always says the same is guessed right."""
    model = OpenVLA.from_pretrained(args.target)
    with torch.no_grad():
        model.lm_head.weight.zero_()  # all logits equal: the first action token, always
    EagleHead(EagleConfig.like(model)).save_pretrained(tmp_path / 'random')
    dataset = Dataset(data, SUITE, model.config.image_size)
    dataset.refresh()
    checkpoint = Checkpoint(model, SUITE, tmp_path / 'random')
    tokenizer = model.action_tokenizer
    for token, length in ((tokenizer.first_id, 6), (tokenizer.last_id, 1)):
        found = acceptance_lengths(checkpoint, ConstantDrafter((token,) * 7), dataset.episodes, 3)
        assert found['strict'].constant == found['relaxed'].constant == length


def test_the_constant_guess_is_the_most_common_token_of_each_position(args):
    _, shards = open_shards(args.regenerated, folder_sha256(args.target))
    tokens = np.concatenate([shard.records['tokens'][:, 0] for shard in shards])
    for position, token in enumerate(ConstantDrafter.of(shards).action):
        counts = np.unique(tokens[:, position], return_counts=True)[1]
        assert (tokens[:, position] == token).sum() == counts.max()


def test_accuracy_counts_only_the_guesses_there_are():
    off = torch.tensor([[[0, 20], [-1, 5]], [[3, 0], [-1, 0]]])
    accuracy = DepthAccuracy.of(off)
    assert accuracy.exact == [[0.5, 0.5], [0.0, 0.5]]
    assert accuracy.near == [[1.0, 0.5], [0.0, 1.0]]
    assert accuracy.by_depth(accuracy.near) == [0.75, 1.0]
    assert accuracy.lines(3)[1].split() == ['depth', '1', '50/100', '50/50']
