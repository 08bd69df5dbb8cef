"""The trainer with a network of its own: a third network needs loss, measurement and settings."""

from dataclasses import dataclass, field, replace
import json
from pathlib import Path
import signal

import numpy as np
import pytest
from rich.console import Console
import torch
from torch import nn, Tensor

from specvla_ros.errors import SpecVLAError
from specvla_ros.training.optimizer import OptimizerSettings
from specvla_ros.training.recipe import mean, Recipe
from specvla_ros.training.saved_state import LAYOUT, StateFolder
from specvla_ros.training.trainer import Trainer
from specvla_ros.training.training_progress import TrainingProgress


@dataclass(frozen=True)
class Arguments:
    """Arguments that every training has."""

    batch: int = 8
    lanes: int = 2
    dtype: str = 'float32'
    store: str = 'float32'
    minutes: float = 0.0
    epochs: float = 5.0
    evaluate: float = 60.0
    seed: int = 0
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(learning_rate=0.05))


class Points:
    """Points of a plane, as if of two episodes."""

    n_episodes = 2

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class PlaneLoss:
    """Squared error."""

    total: Tensor
    tokens: Tensor


class PlaneRecipe(Recipe):
    """Learns the sum of two coordinates, which it sees with noise."""

    def __init__(self, out: Path, seed: int, held_out: int = 9) -> None:
        torch.manual_seed(seed)
        self.out = out
        self.network = nn.Linear(2, 1)
        points = torch.from_numpy(np.random.default_rng(0).normal(size=(49, 2))).float()
        self.frames, self.held_out = Points(points[held_out:]), Points(points[:held_out])

    def loss(self, network, chosen, random, done) -> PlaneLoss:
        seen = self.frames.values[chosen]
        noise = torch.from_numpy(random.normal(size=(len(chosen), 2)).astype(np.float32))
        dtype = next(network.parameters()).dtype
        said = network((seen + 0.1 * noise).to(dtype))
        error = (said.float()[:, 0] - seen.sum(1)).square().mean()
        return PlaneLoss(error, error.detach())

    def distances(self, network, chosen) -> Tensor:
        assert not torch.is_grad_enabled()
        points = self.held_out.values[chosen]
        return (network(points) - points.sum(1, keepdim=True)).abs().mul(10).round().int()

    def settings(self) -> dict:
        return {'held_out': len(self.held_out)}

    def write(self, network, folder, point) -> None:
        torch.save(network.state_dict(), folder / 'plane.pt')
        (folder / 'config.json').write_text(json.dumps(point))


def trainer(folder: Path, resume: bool = False, held_out: int = 9, **changes) -> Trainer:
    args = Arguments(**changes)
    state = StateFolder(folder / 'plane.training', '--out')
    saved = state.load(resume, 'cpu')
    return Trainer(PlaneRecipe(folder / 'plane', args.seed, held_out), args, state,
                   TrainingProgress('train plane', Console()), saved)


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / 'plane' / 'plane.pt', weights_only=True)


def curve(folder: Path) -> list[dict]:
    return [json.loads(line)
            for line in (folder / 'plane.training' / 'curve.jsonl').read_text().splitlines()]


def assert_same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def in_this_thread(function, parts):
    """Stand in for the lanes: signals are handled in the main thread, here at once."""
    return [function(part) for part in parts]


def signalled(monkeypatch, step: int, *numbers: int) -> None:
    """Send signals in the middle of a step."""
    plain = PlaneRecipe.loss

    def loss(self, network, chosen, random, done):
        if not self.sent and self.trainer.optimizer.steps == step:
            self.sent = True
            for number in numbers:
                signal.raise_signal(number)
        return plain(self, network, chosen, random, done)

    monkeypatch.setattr(PlaneRecipe, 'sent', False, raising=False)
    monkeypatch.setattr(PlaneRecipe, 'loss', loss)


def test_a_network_learns_and_is_written_with_what_was_measured(tmp_path, capsys):
    accuracy = trainer(tmp_path, epochs=80.0).run()
    assert accuracy.near == [1.0]  # within 0.9 of the sum
    assert weights(tmp_path)['weight'].sub(1).abs().max() < 0.1
    point, = curve(tmp_path)
    assert point == json.loads((tmp_path / 'plane' / 'config.json').read_text())
    assert (point['step'], point['samples'], point['epoch']) == (400, 3200, 80)
    assert (point['frames'], point['episodes']) == (40, 2)
    assert point['held_out_within_9'] == [1.0] and point['loss'] > 0
    title = capsys.readouterr().out.splitlines()[0]
    assert title.endswith('40 training frames of 2 episodes, 9 frames held out')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['plane', 'plane.training']


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_ctrl_c_in_the_middle_of_a_step_loses_nothing(
        tmp_path, monkeypatch, capsys, number, dtype):
    trainer(tmp_path / 'whole', dtype=dtype).run()
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        signalled(patch, 7, number)
        stopped = trainer(tmp_path / 'stopped', dtype=dtype)
        stopped.recipe.trainer = stopped
        stopped.optimizer.map = in_this_thread
        with pytest.raises(KeyboardInterrupt):
            stopped.run()
    assert signal.getsignal(number) is before
    assert stopped.optimizer.steps == 8  # the step at hand was finished
    assert not (tmp_path / 'stopped' / 'plane').exists()  # nothing was measured yet
    assert 'stopped after step 8: the same command with --resume' in capsys.readouterr().out
    resumed = trainer(tmp_path / 'stopped', resume=True, dtype=dtype)
    assert resumed.samples == 64 and resumed.elapsed == stopped.elapsed > 0
    resumed.run()
    assert_same(weights(tmp_path / 'whole'), weights(tmp_path / 'stopped'))
    assert curve(tmp_path / 'stopped')[-1]['samples'] == curve(tmp_path / 'whole')[-1]['samples']


def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path, monkeypatch):
    signalled(monkeypatch, 3, signal.SIGINT, signal.SIGINT)
    stopped = trainer(tmp_path)
    stopped.recipe.trainer = stopped
    stopped.optimizer.map = in_this_thread
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert stopped.optimizer.steps == 3 and not (tmp_path / 'plane.training').exists()


def test_a_network_that_was_stopped_late_is_written_by_a_shorter_training(tmp_path, monkeypatch):
    """What was saved goes beyond the length asked for now: it is done, and must be there."""
    signalled(monkeypatch, 7, signal.SIGINT)
    stopped = trainer(tmp_path)
    stopped.recipe.trainer = stopped
    stopped.optimizer.map = in_this_thread
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed = trainer(tmp_path, resume=True, epochs=1.0)
    assert resumed.run() is not None
    assert resumed.optimizer.steps == 8
    assert_same(weights(tmp_path), resumed.optimizer.averaged.state_dict())


def test_a_measurement_after_each_interval_and_the_last_step_is_measured_once(tmp_path):
    trainer(tmp_path, evaluate=1e-9).run()
    assert [point['step'] for point in curve(tmp_path)] == list(range(1, 26))


def test_without_held_out_frames_nothing_is_measured(tmp_path):
    assert trainer(tmp_path, held_out=0).run() is None
    assert 'held_out_exact' not in curve(tmp_path)[0]
    assert (tmp_path / 'plane' / 'plane.pt').is_file()


@pytest.mark.parametrize('change, message', [
    (dict(seed=1), '--resume with seed 1, but the training in .* began with 0: use that, or '
                   'another --out'),
    (dict(batch=4), '--resume with batch 4'), (dict(lanes=1), '--resume with lanes 1'),
    (dict(dtype='bfloat16'), "--resume with dtype 'bfloat16'"),
    (dict(held_out=3), '--resume with held_out 3'),
])
def test_another_training_is_not_resumed(tmp_path, change, message):
    trainer(tmp_path).run()
    with pytest.raises(SpecVLAError, match=message):
        trainer(tmp_path, resume=True, **change)
    with pytest.raises(SpecVLAError, match='holds a training: add --resume'):
        trainer(tmp_path)


def edited(**changes):
    return lambda content: content | changes


@pytest.mark.parametrize('edit, message', [
    (lambda content: {name: content[name] for name in content if name != 'layout'},
     f'has layout None, must be {LAYOUT}: another version of specvla wrote it; resume with that'),
    (edited(layout=LAYOUT + 1), f'has layout {LAYOUT + 1}, must be {LAYOUT}'),
    # As `train target` wrote it before there was a layout: arrays of numpy.
    (lambda content: {'settings': {}, 'scale': {'mean': np.zeros(3)}}, 'has layout None'),
    (lambda content: [1, 2], 'has layout None'),
    (edited(settings=[]), r'settings is \[\], must be of type dict'),
    (edited(elapsed='long'), "elapsed is 'long', must be of type float"),
    (edited(optimizer={}), "doesn't fit this network"),
    (edited(sampler={'epoch': 0}), "doesn't fit this network"),
])
def test_a_state_of_another_layout_is_refused_in_one_line(tmp_path, edit, message):
    trainer(tmp_path).run()
    path = tmp_path / 'plane.training' / 'state.pt'
    content = edit(torch.load(path, weights_only=True))
    torch.save(content, path)
    before = path.read_bytes()
    with pytest.raises(SpecVLAError, match=message) as error:
        trainer(tmp_path, resume=True)
    assert '\n' not in str(error.value) and str(path) in str(error.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize('share', [0, 0.5, 0.99])
def test_a_damaged_state_is_named(tmp_path, share):
    trainer(tmp_path).run()
    path = tmp_path / 'plane.training' / 'state.pt'
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    with pytest.raises(SpecVLAError, match="state.pt can't be read .* begin again") as error:
        trainer(tmp_path, resume=True)
    assert '\n' not in str(error.value)


def test_what_is_frozen_comes_back_from_the_state_in_the_lanes_too(tmp_path):
    """The lanes compute with a bfloat16 copy: a resumed one must hold the same frozen weights."""
    def frozen(resume, shift):
        args = Arguments(dtype='bfloat16')
        recipe = PlaneRecipe(tmp_path / 'plane', 0)
        recipe.network.bias.requires_grad_(False).add_(shift)
        state = StateFolder(tmp_path / 'plane.training', '--out')
        return Trainer(recipe, replace(args), state, TrainingProgress('', Console()),
                       state.load(resume, 'cpu'))

    frozen(False, 0.0).run()
    resumed = frozen(True, 5.0)
    assert torch.equal(resumed.optimizer.replica.bias.float(),
                       resumed.optimizer.module.bias.bfloat16().float())


@pytest.mark.parametrize('values, expected', [
    ([], None), ([1.0, 2.0], 1.5), ([1.0, float('nan'), float('inf'), 2.0], 1.5),
    ([float('nan')], None)])
def test_the_curve_holds_numbers_where_a_step_had_none(values, expected):
    """`NaN` is no JSON: a step that was skipped has no part in the mean."""
    assert mean([torch.tensor(value) for value in values]) == expected
