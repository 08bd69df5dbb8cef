"""
The processes that train one network together, started by torchrun or `accelerate launch`.

Plain torch.distributed: the trainer computes gradients as lists of tensors (`optimizer.py`), so
one reduction of them is all that it takes. accelerate would wrap the module, the optimiser and
the data, none of which the lanes use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import contextlib
from dataclasses import dataclass
import datetime
import gc
import os
import re
import traceback

import torch
from torch import distributed, Tensor

from specvla_ros.errors import one_line, SpecVLAError

# The others wait while the first one measures and writes.
_PATIENCE = datetime.timedelta(hours=2)
_GONE = re.compile('by peer|broken pipe|timed out|timeout|remote process', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """
    This process among those that train together; one that is alone is a group of one.

    rank: its number, from 0; size: how many there are; device: where this one computes.
    """

    rank: int = 0
    size: int = 1
    device: str = 'cpu'

    @property
    def leads(self) -> bool:
        """Whether this is the one that measures, shows and writes."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their mean over the processes."""
        if self.size > 1:
            _wait_for([distributed.all_reduce(tensor, async_op=True) for tensor in tensors])
            torch._foreach_div_(list(tensors), self.size)

    def largest(self, *values: float) -> list[float]:
        """Return the largest of each value over the processes: all go on with the same."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX)
        return tensor.tolist()

    def hand_out(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the tensors of the one that leads."""
        if self.size > 1:
            _wait_for([distributed.broadcast(tensor, 0, async_op=True) for tensor in tensors])

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            self.largest(0.0)  # a barrier would need to be told the device

    def check_same(self, **values: int) -> None:
        """
        Check that all processes read the same.

        :raises SpecVLAError: they don't: in each of them, so that none waits for the others
        """
        for name, value in values.items():
            most = [int(it) for it in self.largest(-value, value)]
            if -most[0] != most[1]:
                raise SpecVLAError(
                    f'process {self.rank} of {self.size} has {name} {value}, others have '
                    f'{-most[0]} to {most[1]}: give all machines the same data, and '
                    'change nothing in them meanwhile')


ALONE = ProcessGroup()


@contextlib.contextmanager
def joined(device: str) -> Iterator[ProcessGroup]:
    """
    Join the processes that torchrun started beside this one, if it did.

    The group and its threads have ended when the context is left, by an error or Ctrl-C as well,
    if nothing outside of it holds the networks that were trained in it.

    :param device: that was asked for; `cuda` becomes a GPU for each process of a machine
    :raises SpecVLAError: the others can't be reached, one of them has ended or does not
        answer, or there are fewer GPUs than processes
    """
    size = int(os.environ.get('WORLD_SIZE', 1))
    if size == 1:
        yield ProcessGroup(device=device)
        return
    local = int(os.environ.get('LOCAL_RANK', 0))
    if device == 'cuda':
        if local >= torch.cuda.device_count():
            raise SpecVLAError(f'process {local} of this machine has no GPU: there are '
                               f'{torch.cuda.device_count()}; give torchrun --nproc-per-node that '
                               'number')
        torch.cuda.set_device(local)
        device = f'cuda:{local}'
    # Its functions have the group that there is when they are defined as a default: it would stay.
    from torch.distributed import nn  # noqa: F401
    try:
        distributed.init_process_group(
            'nccl' if device.startswith('cuda') else 'gloo', timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:
        reason = one_line(error, 200)
        raise SpecVLAError(f'the other {size - 1} processes can not be joined ({reason}): start '
                           'the training with torchrun') from error
    try:
        yield ProcessGroup(distributed.get_rank(), size, device)
    except BaseException as error:
        _let_go(error)
        if _lost_another(error):
            raise SpecVLAError(
                f'another of the {size} processes has ended or does not answer '
                f'({one_line(error, 200)}): start all again, with --resume to go on from the last '
                'state that was saved') from error
        raise
    finally:
        _leave()


def _leave() -> None:
    """
    Leave the group, and end its threads.

    torch ends a group's threads when the last reference to the group is gone. A thread of gloo
    that gives a tensor back while Python ends asks for Python's lock, and that aborts the process
    (SIGABRT, "terminate called without an active exception"; pytorch issue 190489).
    """
    distributed.destroy_process_group()
    gc.collect()  # layers that FSDP shards refer to the group, and to each other in circles


def _lost_another(error: BaseException) -> bool:
    """
    Whether an error is that another process can't be heard any more, and no mistake of this one.

    gloo's errors have no type, and NCCL's have one for all that goes wrong.
    """
    if isinstance(error, (distributed.DistNetworkError, distributed.DistStoreError)):
        return True
    is_of_group = isinstance(error, distributed.DistBackendError) or (
        isinstance(error, RuntimeError) and 'gloo' in str(error))
    return is_of_group and _GONE.search(str(error)) is not None


def _let_go(error: BaseException) -> None:
    """Clear the variables of the calls that an error has ended: they hold the networks."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()  # an error may be its own cause
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            waiting += one.__cause__, one.__context__


def check_alone(command: str) -> None:
    """Raise SpecVLAError where torchrun started several processes of a command for one."""
    if int(os.environ.get('WORLD_SIZE', 1)) > 1:
        raise SpecVLAError(f'{command} runs in one process: start it without torchrun')


def _wait_for(works: Iterable[distributed.Work | None]) -> None:
    for work in works:
        if work is not None:
            work.wait()
