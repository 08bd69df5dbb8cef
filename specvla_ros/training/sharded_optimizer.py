"""
The optimisation step where each process holds a part of the weights: FSDP2 of torch.

Masters, averages and moments of AdamW are sharded: 16 bytes a parameter, over all processes.
A block's weights are put together in the data type of the lanes while it is computed, and its
gradient is summed over the processes as soon as it is known. What is saved and written is whole,
the same as without shards.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import copy
import math
from typing import Any

import torch
from torch import nn, Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, MixedPrecisionPolicy
from torch.distributed.tensor import distribute_tensor, DTensor

from specvla_ros.training.optimizer import Optimizer, Part, Result


class ShardedOptimizer(Optimizer):
    """
    An `Optimizer` whose processes divide the weights among them; each has one lane.

    Of the module's `blocks()` one at a time is put together, of the rest all weights for a whole
    pass. All processes must call the same methods in the same order.
    """

    def _lay_out(self, dtype: torch.dtype) -> None:
        module, group = self.module, self.group
        self._outline = _without_weights(module)
        mesh = init_device_mesh(torch.device(group.device).type, (group.size,))
        # torch's caches keep the mesh for good, and it would keep the group, whose threads must
        # end (`process_group.py`). Without this entry it finds the group by its name.
        mesh._pg_registry.clear()
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        self._root = _Root(module)
        for block in (*module.blocks(), self._root):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        self.replica = module
        self._masters = [p for p in module.parameters() if p.requires_grad]
        self._averages = [p.detach().clone() for p in self._masters]

    @property
    def takes_part(self) -> bool:
        """Whether this process measures and reads the weights: all do, each has a part."""
        return True

    def map(self, function: Callable[[Part], Result], parts: Iterable[Part]) -> list[Result]:
        """Run a function over parts, in this thread: another one would have the wrong GPU."""
        return [self._root(function, part) for part in parts]

    def measure(
        self, function: Callable[[nn.Module, Part], Result], parts: Iterable[Part]
    ) -> list[Result]:
        """Run a function of the averaged module over parts."""
        with self._averages_in_place(), torch.no_grad():
            return self.map(lambda part: function(self.module, part), parts)

    def whole(self) -> nn.Module:
        """Return the averaged module, in the memory of the process that leads; else an outline."""
        with self._averages_in_place():
            state = self._whole(self.module.state_dict())
        network = copy.deepcopy(self._outline)
        if self.group.leads:
            network.load_state_dict(state, assign=True)
        return network

    def state_dict(self) -> dict[str, Any]:
        """All a resumed training needs, whole in the process that leads; empty in others."""
        state = {'module': self._whole(self._kept(self.module))}
        with self._averages_in_place():
            state['averaged'] = self._whole(self._kept(self.module))
        state |= {'adamw': self._whole(self._adamw.state_dict()), 'steps': self.steps}
        return state if self.group.leads else {}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`, of any number of processes."""
        own = self._kept(self.module)
        for name in ('averaged', 'module'):
            if state[name].keys() != own.keys():
                odd = sorted(state[name].keys() ^ own.keys())
                raise KeyError(f'{name} differs in {odd[:3]}')
            for key, value in own.items():
                value.copy_(_part_of(state[name][key], value))
            if name == 'averaged':
                self._exchange()
        numbered = [p for group in self._adamw.param_groups for p in group['params']]
        moments = {number: {name: _part_of(value, numbered[number]) if value.ndim else value
                            for name, value in of_one.items()}
                   for number, of_one in state['adamw']['state'].items()}
        self._adamw.load_state_dict(state['adamw'] | {'state': moments})
        self.steps = state['steps']

    def _gradients(
        self, loss: Callable[[Part], tuple[Tensor, Result]], parts: list[Part]
    ) -> tuple[list[Tensor], list[Result]]:
        # FSDP takes the gradients from `backward`, and averages them over the processes.
        (value, result), = self.map(loss, parts)
        value.backward()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._masters]
        self._adamw.zero_grad(set_to_none=True)  # `backward` adds to what a skipped step leaves
        return gradients, [result]

    def _norm(self, gradients: list[Tensor]) -> float:
        # Of the own shards first: one reduction in all, not one for each weight.
        square = super()._norm([gradient.to_local() for gradient in gradients]) ** 2
        total = torch.tensor(square, dtype=torch.float64, device=self.group.device)
        self.group.average([total])
        return math.sqrt(float(total) * self.group.size)

    @contextlib.contextmanager
    def _averages_in_place(self) -> Iterator[None]:
        """Let the module have the averaged weights for a while."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        # A pass without gradients leaves whole weights behind, which the next pass would read.
        self._root.reshard()
        for master, average in zip(self._masters, self._averages, strict=True):
            master_was = master.clone()
            master.copy_(average)
            average.copy_(master_was)

    def _whole(self, value: Any) -> Any:
        """Put the shards in nested dictionaries together, where this process leads."""
        if isinstance(value, dict):
            return {name: self._whole(it) for name, it in value.items()}
        if isinstance(value, DTensor):
            whole = value.detach().full_tensor()
            return whole.cpu() if self.group.leads else None
        return value


class _Root(nn.Module):
    """What FSDP takes for the whole network: its pass is any function of a part of a batch."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[[Part], Result], part: Part) -> Result:
        return function(part)


def _part_of(whole: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a tensor, sharded as another one is, if it is."""
    if not isinstance(like, DTensor):
        return whole
    if whole.shape != like.shape:
        raise ValueError(f'a weight has the shape {[*whole.shape]}, must be {[*like.shape]}')
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements,
                             src_data_rank=None)


def _without_weights(module: nn.Module) -> nn.Module:
    """Copy a module but for its weights."""
    empty: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device='meta'), requires_grad=False)
        for p in module.parameters()}
    return copy.deepcopy(module, empty)
