"""
Work of a fixed shape: recorded once as a CUDA graph, then launched with one call.

A pass of a fast GPU is over before Python has started its last kernel. As a graph it
costs one launch, however many layers there are. Shapes and addresses must then never change:
inputs are padded to a few sizes and copied to where the graph reads them, and no operation may ask
for a tensor's value. On a CPU every row costs time: nothing is padded, and the same function is
simply called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
import gc
import threading
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor

# Rows of a pass: a token alone, a chain of history, EAGLE-2's tree; prompts in steps of 32.
_SIZES = (0, 1, 8, 16, 32, 64)
_STEP = 32
_WARM_UPS = 2  # before a capture: kernels are loaded and chosen at their first runs
_CAPTURING = threading.Lock()  # a process captures one graph at a time


@dataclass(frozen=True, slots=True, eq=False)
class Padded:
    """
    Marks a tensor whose size varies, so that a graph pads it to one of a few fixed sizes.

    at_end: the tensor stands at the end of the padded one instead of its beginning.
    least: pad to the size of at least this many rows.
    """

    tensor: Tensor
    dims: tuple[int, ...] = (0,)
    at_end: bool = False
    least: int = 0


Input = Tensor | Padded | int


class Runner:
    """
    Calls the functions of a pass directly; subclasses record them as graphs instead.

    room: slots of a cache to leave for the passes that follow, when it has to grow.
    """

    room = 32

    def run(self, function: Callable[..., Any], *inputs: Input, **fixed: Any) -> Any:
        """
        Return ``function(*inputs, **fixed)``.

        Ints among the inputs may be tensors [] instead, so the function must only do arithmetic
        with them; ``fixed`` are constants of a graph. The next run of any function may overwrite
        the result of a graph: copy it with ``safe_copy``.
        """
        return function(*(it.tensor if isinstance(it, Padded) else it for it in inputs), **fixed)

    def size(self, rows: int) -> int:
        """Return the padded number of rows."""
        return rows

    def safe_copy(self, output: Tensor) -> Tensor:
        """Return an output, copied if a later run could overwrite it."""
        return output

    def clear(self) -> None:
        """Forget all graphs: to be called when a tensor that is no input has moved."""


class GraphRunner(Runner, ABC):
    """Runs functions as graphs: captures each once per shape of its inputs, and launches it."""

    room = 128

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._captured: dict[tuple, _Captured] = {}

    def run(self, function: Callable[..., Any], *inputs: Input, **fixed: Any) -> Any:
        """Launch the function's graph on these inputs; capture it if it is new."""
        shapes = tuple(map(self._shape, inputs))
        owner = cast(MethodType, function).__self__
        given = (owner, *(value for _, value in sorted(fixed.items())))
        key = (function.__qualname__, shapes, *map(_known_by, given))
        captured = self._captured.get(key)
        if captured is None:
            buffers = tuple(map(self._buffer, inputs, shapes))
            _load(buffers, inputs)
            launch, outputs = self._capture(partial(function, **fixed), buffers)
            captured = self._captured[key] = _Captured(buffers, launch, outputs)
        _load(captured.buffers, inputs)
        captured.launch()
        return captured.outputs

    def size(self, rows: int) -> int:
        """Return the padded number of rows: 0, 1, 8, 16, 32, 64, then steps of 32."""
        return next((s for s in _SIZES if s >= rows), -(-rows // _STEP) * _STEP)

    def safe_copy(self, output: Tensor) -> Tensor:
        """Copy an output: its memory is the graph's."""
        return output.clone()

    def clear(self) -> None:
        """Forget all graphs."""
        self._captured.clear()

    @property
    def captures(self) -> int:
        """How many graphs there are."""
        return len(self._captured)

    @abstractmethod
    def _capture(
        self, function: Callable[..., Any], buffers: tuple[Tensor, ...]
    ) -> tuple[Callable[[], None], Any]:
        """Record a function of these buffers; return what launches it, and its outputs."""

    def _shape(self, given: Input) -> tuple[int, ...]:
        if isinstance(given, int):
            return ()
        if isinstance(given, Tensor):
            return tuple(given.shape)
        shape = list(given.tensor.shape)
        for dim in given.dims:
            shape[dim] = self.size(max(shape[dim], given.least))
        return tuple(shape)

    def _buffer(self, given: Input, shape: tuple[int, ...]) -> Tensor:
        dtype = torch.int64 if isinstance(given, int) else _tensor(given).dtype
        return torch.zeros(shape, dtype=dtype, device=self._device)


class CudaGraphs(GraphRunner):
    """
    Runs functions as CUDA graphs, which share one pool for all memory that they compute in.

    They may share it, as they never run at the same time and their outputs are held. But a later
    graph may overwrite these outputs: ``safe_copy`` copies what is read after the next graph.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._pool = torch.cuda.graph_pool_handle()
        # torch's default stream for captures is on the device that captured first.
        self._stream = torch.cuda.Stream(device)

    def clear(self) -> None:
        """Forget all graphs, and their pool: one without graphs can't be captured to again."""
        super().clear()
        self._pool = torch.cuda.graph_pool_handle()

    def _capture(
        self, function: Callable[..., Any], buffers: tuple[Tensor, ...]
    ) -> tuple[Callable[[], None], Any]:
        # A capture is of the current device, whatever its tensors are on. Another thread may go
        # on acting meanwhile: that only launches graphs.
        with _CAPTURING, torch.cuda.device(self._device), _no_collection():
            for _ in range(_WARM_UPS):
                function(*buffers)
            graph = torch.cuda.CUDAGraph()
            with _own_workspaces(), torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode='thread_local',
            ):
                outputs = function(*buffers)
        return graph.replay, outputs


@dataclass(frozen=True, slots=True, eq=False)
class _Captured:
    """A recorded function: where it reads, how it runs, where its results are."""

    buffers: tuple[Tensor, ...]
    launch: Callable[[], None]
    outputs: Any


@contextmanager
def _own_workspaces() -> Iterator[None]:
    """
    Let a graph's cuBLAS compute in the graph's pool.

    cuBLAS takes a workspace per stream, 32 MiB on Hopper, at its first product there, and torch
    holds it for good. A graph doesn't own it: `torch.compile` gives these workspaces
    back, and the next launch wrote into the memory of other tensors (an illegal access
    on an H200, beside `generate-compiled`). And one stayed behind for each stream that was ever
    captured. Without a workspace a capture takes one in its own pool.
    """
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python from collecting garbage: a dead policy's graphs can't end in a capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def runner_on(device: torch.device) -> Runner:
    """Graphs on a CUDA device, plain calls elsewhere."""
    return CudaGraphs(device) if device.type == 'cuda' else Runner()


def _known_by(value: Any) -> Any:
    """
    Value that equals only what would be captured alike.

    Settings by their content. What is an object of its own by identity: a reference would keep
    alive what owns the runner, and its memory.
    """
    by_identity: object = object.__hash__
    return id(value) if type(value).__hash__ is by_identity else value


def _tensor(given: Tensor | Padded) -> Tensor:
    return given.tensor if isinstance(given, Padded) else given


def _load(buffers: tuple[Tensor, ...], inputs: tuple[Input, ...]) -> None:
    """Copy inputs to where a graph reads them; an int needs no copy from the host's memory."""
    for buffer, given in zip(buffers, inputs, strict=True):
        if isinstance(given, int):
            buffer.fill_(given)
            continue
        tensor, at_end = _tensor(given), isinstance(given, Padded) and given.at_end
        place = tuple(
            slice(size - rows, size) if at_end else slice(rows)
            for rows, size in zip(tensor.shape, buffer.shape, strict=True)
        )
        buffer[place].copy_(tensor, non_blocking=True)
