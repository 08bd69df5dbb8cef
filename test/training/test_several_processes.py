"""Training in two processes: the weights of one, one that writes, and a way back after a stop."""

from dataclasses import replace
import json
import os
from pathlib import Path
import subprocess
import sys
import weakref

import pytest
import torch
from torch import distributed

from specvla_ros.embedded import checkpoint_folder
from specvla_ros.errors import SpecVLAError
from specvla_ros.hashing import folder_sha256
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training import (
    regenerate,
    train_eagle,
    train_glance,
    train_retrieval,
    train_target,
)
from specvla_ros.training.optimizer import OptimizerSettings
from specvla_ros.training.process_group import _let_go, joined
from specvla_ros.training.target_batches import Augmentation
from test.training.conftest import OF_INIT, SUITE, TINY
from test.training.drafter_data import regenerate_args, write_target

# Processes import it by name, as in test/benchmark.
sys.path.append(str(Path(__file__).parent))
from together import lose_the_other, see_others, together, train_all  # noqa: E402


@pytest.fixture
def args(data, tmp_path):
    return train_target.TrainTargetArgs(
        out=tmp_path / 'one', suite=SUITE, data=data, epochs=2, batch=16, lanes=2,
        dtype='float32', holdout=0.2, text_tokens=300, shape=TINY, evaluate=60,
        optimizer=OptimizerSettings(learning_rate=3e-3), augmentation=Augmentation(shift=1))


def half(args, **changes):
    """Return the part of one of two processes."""
    return replace(args, batch=args.batch // 2, lanes=args.lanes // 2, **changes)


def weights(folder) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file
    return load_file(next(folder.glob('*.safetensors')))


def assert_close(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-5, rtol=1e-4)


def curve(folder) -> list[dict]:
    path = folder.with_name(folder.name + '.training') / 'curve.jsonl'
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_processes_give_the_networks_of_one_with_twice_the_batch(args, data, tmp_path):
    """The target, and both drafters, in the same two processes."""
    write_target(tmp_path / 'target')
    regenerate.run(regenerate_args(tmp_path, data))
    shared = dict(target=tmp_path / 'target', suite=SUITE, data=data, epochs=2, batch=8, lanes=2,
                  regenerated=tmp_path / 'words', holdout=0.2, decode_frames=4)
    ones = [(train_target, args, 'out'),
            (train_glance, train_glance.TrainGlanceArgs(
                **shared, drafter=tmp_path / 'glance'), 'drafter'),
            (train_eagle, train_eagle.TrainEagleArgs(**shared, out=tmp_path / 'eagle'), 'out')]
    twos = [half(one, **{place: tmp_path / f'two-{number}'})
            for number, (_, one, place) in enumerate(ones)]
    for module, one, _ in ones:
        module.run(one)
    together(train_all, [(module.__name__, two) for (module, *_), two in zip(ones, twos)])
    for (_, one, place), two in zip(ones, twos):
        assert_close(*(weights(next(getattr(it, place).rglob('*.safetensors')).parent)
                       for it in (one, two)))
    one, = curve(args.out)
    other, = curve(twos[0].out)  # one process wrote
    for name in ('step', 'epoch', 'samples', 'frames', 'held_out_within_9'):
        assert one[name] == pytest.approx(other[name]), name
    # One process goes on with what two have begun, if the batch is the same in all.
    assert train_target.run(replace(args, out=twos[0].out, resume=True)) == 0
    with pytest.raises(SpecVLAError, match='--resume with batch 8, but the training in .* 16'):
        train_target.run(replace(twos[0], resume=True))


TORCHRUN = ['torch.distributed.run', '--nproc-per-node', '2', '-m']


def launch(args, launcher, more):
    """Start a training as the user does, whose part is the same in two processes; return both."""
    command = [
        sys.executable, '-m', *launcher, 'specvla_ros', 'train', 'target', *more,
        '--out', args.out, '--suite', SUITE, '--data', args.data, '--epochs', '1',
        '--batch', '8', '--lanes', '1', '--dtype', 'float32']
    # Shows where native code crashes: one of the two processes died of SIGSEGV once, in CI.
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200,
                          env={**os.environ, 'MASTER_PORT': '0', 'PYTHONFAULTHANDLER': '1'})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('2 processes, batch 8 each, 16 in all') == 1
    assert done.stdout.count('checkpoint in') == 1


@pytest.mark.parametrize('launcher, more', [
    (TORCHRUN, []),
    # Its launcher for GPUs, which serves CPUs as well; that for CPUs starts one process.
    (['accelerate.commands.launch', '--multi_gpu', '--num_processes', '2', '--num_machines', '1',
      '--mixed_precision', 'no', '--dynamo_backend', 'no', '--module'], ['--shard']),
])
def test_a_launcher_starts_a_training_and_one_process_speaks(args, launcher, more):
    pytest.importorskip(launcher[0].split('.')[0], reason='accelerate is not installed')
    shape = [f'--shape.{name.replace("_", "-")}={getattr(TINY, name)}' for name in TINY.__slots__]
    launch(args, launcher, [*more, '--text-tokens', '300', *shape])
    assert OpenVLA.from_pretrained(args.out).action_dim() == 7


def test_torchrun_trains_adapters_on_the_embedded_checkpoint(args):
    pytest.importorskip('peft', reason="peft is not installed: pip install '.[lora]'")
    launch(args, TORCHRUN, ['--init', SUITE, '--lora', '4', '--store', 'bfloat16'])
    before, after = weights(checkpoint_folder(SUITE)), weights(args.out)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all('language_model' in name and name.endswith('proj.weight')
                           for name in changed)


def test_processes_see_each_other_and_notice_other_data(tmp_path):
    together(see_others, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['0 of 2', '1 of 2']


class Network:
    """What a call holds."""


def test_an_error_lets_go_of_what_the_calls_behind_it_held():
    held = []

    def call(kind):
        network = Network()
        held.append(weakref.ref(network))
        raise kind(kind.__name__)

    try:
        try:
            call(KeyError)
        except KeyError:
            try:
                call(TypeError)
            except TypeError as cause:
                reason = cause
            raise SpecVLAError('of another cause') from reason
    except SpecVLAError as error:
        reason.__cause__ = error  # in a circle
        _let_go(error)
        assert [it() for it in held] == [None, None]


def test_a_process_that_dies_is_missed_in_one_line():
    together(lose_the_other)


@pytest.mark.parametrize('kind, text, is_lost', [
    (RuntimeError, '[gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:1', True),
    (RuntimeError, '[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 60000ms', True),
    (RuntimeError, '[enforce fail at gloo/allreduce.cc:28] elements > 0. 0 vs 0', False),
    (RuntimeError, 'Connection closed by peer', False),  # of something else, a data set's server
    (distributed.DistBackendError, 'NCCL error: remote process exited', True),
    (distributed.DistBackendError, 'NCCL error: invalid usage, duplicate GPU', False),
    (distributed.DistStoreError, 'wait timeout', True),
])
def test_only_a_lost_process_is_told_as_one(monkeypatch, kind, text, is_lost):
    monkeypatch.setenv('WORLD_SIZE', '2')
    for name in ('init_process_group', 'destroy_process_group'):
        monkeypatch.setattr(distributed, name, lambda *_, **__: None)
    monkeypatch.setattr(distributed, 'get_rank', lambda: 0)
    with pytest.raises(SpecVLAError if is_lost else kind) as caught, joined('cpu'):
        raise kind(text)
    assert text in str(caught.value)
    assert ('another of the 2 processes has ended' in str(caught.value)) == is_lost


def test_what_runs_in_one_process_says_so(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(SpecVLAError, match='train retrieval runs in one process: start it with'):
        train_retrieval.run(train_retrieval.TrainRetrievalArgs())


def test_processes_without_a_meeting_place_are_told_what_to_do(args, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    for name in ('RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SpecVLAError, match='the other 1 processes can not be joined .* torchrun'):
        train_target.run(args)


def test_lora_changes_the_llama_alone_and_leaves_an_ordinary_checkpoint(args, tmp_path):
    pytest.importorskip('peft', reason="peft is not installed: pip install '.[lora]'")
    base = write_target(tmp_path / 'base')
    before = weights(base)
    lora = replace(args, out=tmp_path / 'lora', init=base, **OF_INIT, lora=4, state_weight=0.0)
    train_target.run(lora)
    after = weights(lora.out)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all('language_model' in name and name.endswith('proj.weight')
                           for name in changed)
    assert len(changed) == 7 * TINY.layers
    for name in changed:
        assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-3) <= 4
    state = torch.load(tmp_path / 'lora.training' / 'state.pt', weights_only=True)
    assert all('.lora_' in name or 'heads' in name for name in state['optimizer']['module'])
    assert folder_sha256(base) == folder_sha256(write_target(tmp_path / 'again'))


def test_lora_is_resumed(args, tmp_path, monkeypatch):
    pytest.importorskip('peft', reason="peft is not installed: pip install '.[lora]'")
    base = write_target(tmp_path / 'base')
    lora = replace(args, out=tmp_path / 'whole', init=base, **OF_INIT, lora=4, dtype='bfloat16')
    train_target.run(lora)
    step = train_target.Trainer.step

    def interrupted(self, done):
        if self.optimizer.steps == 3:
            self.save()
            raise KeyboardInterrupt
        return step(self, done)

    with monkeypatch.context() as patch:
        patch.setattr(train_target.Trainer, 'step', interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_target.run(replace(lora, out=tmp_path / 'cut'))
    train_target.run(replace(lora, out=tmp_path / 'cut', resume=True))
    one, other = weights(lora.out), weights(tmp_path / 'cut')
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize('change, message', [
    ({'lora': -1}, '--lora -1: give a rank of 1 to 1024'),
    ({'lora': 4}, '--lora adapts the Llama of a checkpoint: give --init|needs the Python package'),
])
def test_lora_that_cannot_be_is_refused(args, change, message):
    with pytest.raises(SpecVLAError, match=message):
        train_target.run(replace(args, **change))
