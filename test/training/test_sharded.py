"""Training with the weights in parts (FSDP), and LoRA, in two processes: the results of one."""

from dataclasses import replace
import json
from pathlib import Path
import sys

import pytest
import torch

from specvla_ros.errors import SpecVLAError
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training import train_target
from specvla_ros.training.optimizer import OptimizerSettings
from specvla_ros.training.process_group import ProcessGroup
from specvla_ros.training.target_arguments import check_arguments
from specvla_ros.training.target_batches import Augmentation
from test.training.conftest import OF_INIT, SUITE, TINY
from test.training.drafter_data import write_target

# Processes import it by name, as in test/benchmark.
sys.path.append(str(Path(__file__).parent))
from together import take_steps_and_leave, together, train_with_shards  # noqa: E402


@pytest.fixture
def args(data, tmp_path):
    """Measured after each step: nothing of the averages may be left for the next one."""
    return train_target.TrainTargetArgs(
        out=tmp_path / 'one', suite=SUITE, data=data, epochs=1, batch=16, lanes=2,
        dtype='float32', holdout=0.2, text_tokens=300, shape=TINY, evaluate=1e-6,
        optimizer=OptimizerSettings(learning_rate=3e-3), augmentation=Augmentation(shift=1))


def sharded(args, **changes):
    """Return the part of one of two processes."""
    return replace(args, batch=args.batch // 2, lanes=1, shard=True, **changes)


def weights(folder) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file
    return load_file(next(folder.glob('*.safetensors')))


def state(folder) -> dict:
    path = folder.with_name(folder.name + '.training') / 'state.pt'
    return torch.load(path, weights_only=True)


def curve(folder) -> list[dict]:
    path = folder.with_name(folder.name + '.training') / 'curve.jsonl'
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_close(one, other, atol=2e-5):
    assert one.keys() == other.keys()
    for name in one:
        if isinstance(one[name], dict):
            assert_close(one[name], other[name], atol)
        elif isinstance(one[name], torch.Tensor):
            assert one[name].dtype == other[name].dtype
            torch.testing.assert_close(one[name], other[name], atol=atol, rtol=1e-3)


def test_shards_give_the_checkpoint_the_state_and_the_curve_of_whole_weights(args, tmp_path):
    """And a training that was cut short goes on with shards and without."""
    frozen = replace(args, out=tmp_path / 'frozen', init=write_target(tmp_path / 'base'),
                     freeze_vision=True, state_weight=0.0, evaluate=60, **OF_INIT)
    train_target.run(args)
    train_target.run(frozen)
    cut = [sharded(args, out=tmp_path / name) for name in ('cut', 'cut_too')]
    together(train_with_shards, [
        replace(cut[0], resume=True), sharded(args, out=tmp_path / 'two'),
        sharded(frozen, out=tmp_path / 'two_frozen')], cut, seconds=300)
    train_target.run(replace(args, out=cut[1].out, resume=True))
    for one, two in ((args.out, tmp_path / 'two'), (frozen.out, tmp_path / 'two_frozen')):
        assert_close(weights(one), weights(two))
        before, after = state(one)['optimizer'], state(two)['optimizer']
        assert_close(before, after)
        assert before['adamw']['state'].keys() == after['adamw']['state'].keys()
        assert len(curve(one)) == len(curve(two))  # one process wrote
        for point, other in zip(curve(one), curve(two)):
            for name in ('step', 'samples', 'held_out_within_9'):
                assert point[name] == pytest.approx(other[name], abs=1e-4), name
    for resumed in cut:
        assert_close(weights(args.out), weights(resumed.out))
    assert OpenVLA.from_pretrained(tmp_path / 'two').action_dim() == 7


def test_a_step_that_is_not_finite_is_skipped_and_a_group_ends_however_it_is_left():
    together(take_steps_and_leave)


def test_lora_in_two_processes_gives_the_weights_of_one(args, tmp_path):
    pytest.importorskip('peft', reason="peft is not installed: pip install '.[lora]'")
    lora = replace(args, out=tmp_path / 'lora', init=write_target(tmp_path / 'base'), lora=4,
                   evaluate=60, **OF_INIT)
    train_target.run(lora)
    rounded = replace(lora, dtype='bfloat16', store='bfloat16')
    twos = [sharded(lora, out=tmp_path / 'shards'),
            replace(sharded(lora, out=tmp_path / 'whole'), shard=False),
            sharded(rounded, out=tmp_path / 'shards_16')]
    together(train_with_shards, twos, [], seconds=300)
    for two in twos[:2]:
        assert_close(weights(lora.out), weights(two.out))
        assert_close(state(lora.out)['optimizer'], state(two.out)['optimizer'])
    # Computed in bfloat16: near, and of the same layout.
    one, two = (curve(it.out)[-1]['held_out_within_9'] for it in (lora, twos[2]))
    assert one == pytest.approx(two, abs=0.2)
    assert state(twos[2].out)['optimizer']['module'].keys() == \
        state(lora.out)['optimizer']['module'].keys()
    assert all(value.dtype == torch.bfloat16 for value in weights(twos[2].out).values())


@pytest.mark.parametrize('changes, processes, message', [
    ({'lanes': 1}, 1, '--shard divides the weights among several processes and there is one'),
    ({'lanes': 2}, 2, '--shard with --lanes 2: give --lanes 1'),
])
def test_shards_that_cannot_be_are_refused(args, changes, processes, message):
    with pytest.raises(SpecVLAError, match=message):
        check_arguments(replace(args, shard=True, **changes), ProcessGroup(size=processes))
