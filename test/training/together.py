"""Several processes that train together, as torchrun starts them; they can import this file."""

from collections.abc import Callable
import contextlib
import importlib
import multiprocessing
import os
from pathlib import Path
import socket


def together(function: Callable, *args, processes: int = 2, seconds: float = 120) -> None:
    """Call a function in each of some processes; fail if one of them fails."""
    ports = free_ports()
    context = multiprocessing.get_context('spawn')
    started = [context.Process(target=_call, args=(function, args, rank, processes, ports))
               for rank in range(processes)]
    for process in started:
        process.start()
    try:
        for process in started:
            process.join(seconds)
        assert [process.exitcode for process in started] == [0] * processes
    finally:
        for process in started:
            process.kill()


def free_ports(count: int = 6) -> list[str]:
    """Return free ports: processes that meet anew must not find the last meeting's place."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for it in sockets:
            it.bind(('127.0.0.1', 0))
        return [str(it.getsockname()[1]) for it in sockets]


def _call(function: Callable, args: tuple, rank: int, processes: int, ports: list[str]) -> None:
    os.environ |= {'RANK': str(rank), 'LOCAL_RANK': str(rank), 'WORLD_SIZE': str(processes),
                   'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': ports[0],
                   'FREE_PORTS': ' '.join(ports)}
    function(*args)
    check_threads()


def check_threads() -> None:
    """Check that no thread outlives its group: one at work while Python ends aborts it."""
    names = []
    for path in Path('/proc/self/task').glob('*/comm'):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            names.append(path.read_text().strip())
    left = [name for name in names if 'gloo' in name]
    assert not left, f'threads outlive their process group: {left}'


def see_others(folder: Path) -> None:
    """Check what a group of two says in each of them."""
    import torch

    from specvla_ros.errors import SpecVLAError
    from specvla_ros.training.process_group import joined

    with joined('cpu') as group:
        (folder / f'{group.rank} of {group.size}').touch()
        value = torch.tensor([float(group.rank)])
        group.average([value])
        assert value.item() == 0.5
        assert group.largest(group.rank, -group.rank) == [1.0, 0.0]
        group.check_same(frames=7)
        try:
            group.check_same(frames=group.rank)
        except SpecVLAError as error:
            assert f'of 2 has frames {group.rank}, others have 0 to 1: give all' in str(error)
        else:
            raise AssertionError('other data were not noticed')


def lose_the_other() -> None:
    """Check what the first process says when the second one is gone."""
    import torch

    from specvla_ros.errors import SpecVLAError
    from specvla_ros.training.process_group import joined

    try:
        with joined('cpu') as group:
            group.wait()
            if group.rank == 1:
                os._exit(0)
            for _ in range(2):
                group.average([torch.zeros(1000)])
    except SpecVLAError as error:
        line = str(error)
        assert line.startswith('another of the 2 processes has ended or does not answer (')
        assert '\n' not in line
        assert line.endswith('start all again, with --resume to go on from the last state that '
                             'was saved')
    else:
        raise AssertionError('the process that ended was not missed')


def train_all(trainings: list) -> None:
    """Run trainings one after the other: pairs of a module's name and its arguments."""
    for (module, args), port in zip(trainings, os.environ['FREE_PORTS'].split()):
        os.environ['MASTER_PORT'] = port
        assert importlib.import_module(module).run(args) == 0


def train_with_shards(trainings: list, cut: list) -> None:
    """Train targets; cut some short after two steps, the first of which goes on here."""
    import torch

    from specvla_ros.training import train_target

    torch.set_num_threads(1)  # as torchrun has it
    ports = iter(os.environ['FREE_PORTS'].split())
    step = train_target.Trainer.step

    def interrupted(self, done):
        if self.optimizer.steps == 2:  # the first one learns nothing: its rate is 0
            self.save()
            check_shares(self)
            check_measuring(self)
            raise KeyboardInterrupt
        return step(self, done)

    train_target.Trainer.step = interrupted
    for args in cut:
        os.environ['MASTER_PORT'] = next(ports)
        with contextlib.suppress(KeyboardInterrupt):
            train_target.run(args)
    train_target.Trainer.step = step
    for args in trainings:
        os.environ['MASTER_PORT'] = next(ports)
        assert train_target.run(args) == 0


def check_shares(trainer) -> None:
    """Check that this process holds half of the weights, of their averages, of the moments."""
    optimizer = trainer.optimizer
    moments = [it for state in optimizer._adamw.state.values()
               for name, it in state.items() if name != 'step']
    whole = sum(p.numel() for p in trainer.recipe.network.parameters())
    for held, times in ((optimizer._masters, 1), (optimizer._averages, 1), (moments, 2)):
        own = sum(it.to_local().numel() for it in held)
        assert abs(own / times - whole / 2) < 0.02 * whole  # an odd row is in the first process


def check_measuring(trainer) -> None:
    """Check that measuring the averages leaves nothing of them in the weights that learn."""
    import numpy as np

    def loss():
        recipe, network = trainer.recipe, trainer.optimizer.replica
        return trainer.optimizer.map(
            lambda chosen: recipe.loss(network, chosen, np.random.default_rng(0), 0.5).total,
            [np.arange(4)])[0].item()

    trainer.optimizer._root.reshard()
    point, after = trainer.measure().point(), loss()
    trainer.optimizer._root.reshard()
    assert loss() == after
    assert trainer.measure().point() == point


def take_steps_and_leave() -> None:
    """
    Check that a gradient that is not finite skips its own step and no later one.

    And that a group that shards weights ends its threads, whatever it is left by.
    """
    from specvla_ros.errors import SpecVLAError
    from specvla_ros.training.process_group import joined

    for port, kind in zip(os.environ['FREE_PORTS'].split(), (None, SpecVLAError,
                                                             KeyboardInterrupt)):
        os.environ['MASTER_PORT'] = port
        try:
            with joined('cpu') as group:
                _take_steps(group, (float('nan'), 0, 1), (1.0, 1, 0), (1.0, 2, 0), error=kind)
        except (SpecVLAError, KeyboardInterrupt) as error:
            assert type(error) is kind
            check_threads()  # while the error, with its calls, is still at hand
        check_threads()


def _take_steps(group, *steps: tuple[float, int, int], error: type | None = None) -> None:
    """Take steps with sharded weights: what they see, how many are then done, and skipped."""
    import torch

    from specvla_ros.training.optimizer import OptimizerSettings
    from specvla_ros.training.sharded_optimizer import ShardedOptimizer

    class Pair(torch.nn.Sequential):
        def blocks(self):
            return [self[0]]

    pair = Pair(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    optimizer = ShardedOptimizer(pair, OptimizerSettings(), 1, torch.float32, group)

    def loss(factor):
        return optimizer.replica(torch.full((3, 4), factor)).square().mean(), None

    for factor, taken, skipped in steps:
        optimizer.step(loss, [factor], 0.5)
        assert (optimizer.steps, optimizer.skipped) == (taken, skipped)
    if error:
        try:
            raise ValueError('the reason')
        except ValueError as reason:
            raise error('of a step') from reason
