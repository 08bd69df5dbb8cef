"""`train glance` on a tiny target: learns its words, resumes to the bit, needs fewer passes."""

from dataclasses import replace
import json

import pytest
from safetensors.torch import load_file
import torch

from specvla_ros.decoding.drafters import EagleConfig, EagleHead, GlanceHead
from specvla_ros.errors import SpecVLAError
from specvla_ros.files import alone_in
from specvla_ros.learning import glance_lesson
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training import train_eagle
from specvla_ros.training.accuracy import TokenAccuracy
from specvla_ros.training.optimizer import OptimizerSettings
from specvla_ros.training.regenerate import run as regenerate
from specvla_ros.training.saved_state import StateFolder
from specvla_ros.training.train_glance import run, TrainGlanceArgs
from specvla_ros.training.trainer import Trainer
from test.training.drafter_data import regenerate_args, write_target


@pytest.fixture
def args(tmp_path, data):
    target = write_target(tmp_path / 'target')
    regenerate(regenerate_args(tmp_path, data))
    return TrainGlanceArgs(
        target=target, drafter=tmp_path / 'drafter', regenerated=tmp_path / 'words', data=data,
        epochs=3, batch=16, rank=4, width=32, holdout=0.0, evaluate=60, decode_frames=4,
        optimizer=OptimizerSettings(learning_rate=3e-3))


def weights(args):
    return load_file(args.drafter / 'glance' / 'model.safetensors')


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def passes(line):
    """Passes of glance and glance_relaxed in the last line."""
    assert line.startswith('held-out passes an action, each frame on its own: glance ')
    return [float(part.split()[-1]) for part in line.split(': ')[1].split(', ')]


def test_a_second_training_of_the_same_drafter_is_refused_before_it_reads_the_state(
        args, monkeypatch):
    run(args)
    state = args.drafter.with_name('drafter.glance.training')
    monkeypatch.setattr(StateFolder, 'load', None)  # would raise TypeError
    with alone_in(state), pytest.raises(SpecVLAError, match='another process is writing to'):
        run(replace(args, resume=True))


def test_it_learns_and_the_deployed_decoder_needs_fewer_passes(args, capsys):
    run(replace(args, epochs=0.2, drafter=args.drafter.with_name('before'), holdout=0.3))
    before = passes(capsys.readouterr().out.splitlines()[-1])
    run(replace(args, epochs=200, holdout=0.3))
    head = GlanceHead.from_pretrained(
        args.drafter / 'glance', OpenVLA.from_pretrained(args.target))
    assert (head.config.length, head.config.rank) == (7, 4)
    lines = capsys.readouterr().out.splitlines()
    after = passes(lines[-1])
    assert after[0] <= before[0] and after[1] < before[1]
    assert lines[-4].split()[-7:] == ['x', 'y', 'z', 'roll', 'pitch', 'yaw', 'gripper']
    card = json.loads((args.drafter / 'glance' / 'training.json').read_text())
    assert len(card['target_sha256']) == 64 and len(card['measured']['held_out_exact']) == 7


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_resumed_training_ends_with_identical_weights(args, tmp_path, monkeypatch, dtype):
    args = replace(args, dtype=dtype)
    whole = replace(args, drafter=tmp_path / 'whole')
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
    assert_same(weights(whole), weights(args))
    with pytest.raises(SpecVLAError, match='--resume with width 16'):
        run(replace(args, resume=True, width=16))


def test_neither_training_takes_away_what_the_other_made(args, tmp_path):
    run(replace(args, epochs=1))
    eagle = train_eagle.TrainEagleArgs(
        target=args.target, out=args.drafter, regenerated=args.regenerated, data=args.data,
        epochs=1, batch=16, holdout=0.0, decode_frames=0)
    glance = weights(args)
    train_eagle.run(eagle)
    assert_same(weights(args), glance)
    head = EagleHead.from_pretrained(args.drafter, OpenVLA.from_pretrained(args.target))
    assert head.config == EagleConfig.like(OpenVLA.from_pretrained(args.target))


@pytest.mark.parametrize(('change', 'message'), [
    ({'dropout': 1.0}, 'dropout is 1.0, must be at least 0 and below 1'),
    ({'blur': -1.0}, 'blur is -1.0, must be at least 0 bins'),
    ({'batch': 15}, 'batch 15 must be a multiple of lanes 2'),
    ({'rank': 0}, 'glance rank is 0, must be a positive whole number'),
])
def test_bad_settings_get_one_clear_line(args, change, message):
    with pytest.raises(SpecVLAError, match=message) as error:
        run(replace(args, **change))
    assert '\n' not in str(error.value)


def test_labels_are_blurred_over_their_neighbours():
    sharp, soft = glance_lesson.blurred(8, 0.0), glance_lesson.blurred(8, 1.0)
    assert torch.equal(sharp, torch.eye(8))
    assert torch.allclose(soft.sum(1), torch.ones(8))
    assert soft[3, 3] > soft[3, 4] > soft[3, 5] > 0
    assert soft[3, 4] / soft[3, 3] == pytest.approx(0.6065, abs=1e-3)  # exp(-1/2)


def test_accuracy_of_each_token():
    accuracy = TokenAccuracy.of(torch.tensor([[0, 9], [10, 0]]))
    assert (accuracy.exact, accuracy.near) == ([0.5, 0.5], [0.5, 1.0])
    assert accuracy.lines(2)[1].split() == ['50/50', '50/100']
