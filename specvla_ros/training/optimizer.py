"""
The optimisation step: lanes, master weights, AdamW, averaged weights.

A batch is cut into one part a lane, and each lane is one thread that computes its part's gradient
on one core. That beats one thread pool over the whole batch by far when other processes use the
cores as well (no barrier in every operator), and the sum is the same whichever lane ends first.
On a CPU with AVX-512 BF16 a bfloat16 copy of the weights trains twice as fast as float32
(measured: 58 against 29 frames/s a core, 6.4 M parameters); on one without such instructions it
takes many times as long. The master weights stay float32.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
import copy
from dataclasses import dataclass
import math
from typing import TypeVar

import torch
from torch import nn, Tensor

from specvla_ros.training.process_group import ALONE, ProcessGroup

Part = TypeVar('Part')
Result = TypeVar('Result')


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """AdamW and its schedule; shares are of the whole training."""

    learning_rate: float = 1.5e-3
    warm_up: float = 0.02  # share in which the learning rate rises
    warm_up_steps: int = 0  # the same in steps, however long the training is; 0 = the share counts
    decay: float = 0.45  # last share, in which it falls to zero
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0  # largest norm of the gradient
    average: float = 0.998  # decay of the averaged weights per step

    def rate(self, done: float, steps: int) -> float:
        """Learning rate when a share, 0 … 1, and so many steps are done: a trapezium."""
        if self.warm_up_steps:
            rise = steps / self.warm_up_steps
        else:
            rise = done / self.warm_up if self.warm_up else 1.0
        fall = (1 - done) / self.decay if self.decay else 1.0
        return self.learning_rate * max(0.0, min(1.0, rise, fall))


class Optimizer:
    """
    Train the parameters of a module; `averaged` is the module to keep.

    lanes: threads, each on one core; dtype: the data type that the lanes compute in. group: of
    processes that take each step together, each with parts of its own. only_trained: leave what is
    frozen out of the state: it is loaded anyway.
    """

    def __init__(
        self, module: nn.Module, settings: OptimizerSettings, lanes: int, dtype: torch.dtype,
        group: ProcessGroup = ALONE, only_trained: bool = False,
    ) -> None:
        self.settings, self.lanes, self.group = settings, lanes, group
        self.module, self._only_trained = module, only_trained
        group.hand_out(parameter.data for parameter in module.parameters())
        self._lay_out(dtype)
        groups = [
            {'params': [p for p in self._masters if p.ndim > 1],
             'weight_decay': settings.weight_decay},
            {'params': [p for p in self._masters if p.ndim <= 1], 'weight_decay': 0.0},
        ]
        self._adamw = torch.optim.AdamW(groups, betas=settings.betas, fused=True)
        self._pool = ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(1,))
        self.steps = 0
        self.skipped = 0  # steps in a row whose gradient was not finite

    def _lay_out(self, dtype: torch.dtype) -> None:
        """Make the copies of the module: the averaged one, and that of the lanes."""
        module = self.module
        self.averaged = _copy(module).requires_grad_(False)
        # The lanes' copy. Float32 needs none.
        self.replica = module if dtype == torch.float32 else _copy(module, dtype).to(dtype)
        self._masters = [p for p in module.parameters() if p.requires_grad]
        self._replicas = [p for p in self.replica.parameters() if p.requires_grad]
        self._averages = [
            average for average, p in zip(self.averaged.parameters(), module.parameters(),
                                          strict=True) if p.requires_grad]

    @property
    def takes_part(self) -> bool:
        """Whether this process measures and reads the weights: one does, for all."""
        return self.group.leads

    def measure(
        self, function: Callable[[nn.Module, Part], Result], parts: Iterable[Part]
    ) -> list[Result]:
        """Run a function of the averaged module over parts in the lanes."""
        return self.map(lambda part: function(self.averaged, part), parts)

    def whole(self) -> nn.Module:
        """Return the averaged module, to be written."""
        return self.averaged

    def step(self, loss: Callable[[Part], tuple[Tensor, Result]], parts: list[Part],
             done: float) -> list[Result]:
        """
        Take one step down the mean of a loss over equally large parts; returns the lanes' results.

        loss: computes (scalar loss, anything) of a part with `replica`; done: share of the
        training, 0 … 1.

        :raises FloatingPointError: ten steps in a row had no finite gradient
        """
        gradients, results = self._gradients(loss, parts)
        norm = self._norm(gradients)
        if not math.isfinite(norm):
            self.skipped += 1
            if self.skipped == 10:
                raise FloatingPointError(
                    'the gradient was not finite in ten steps in a row: start again from an '
                    'earlier state with a lower learning rate')
            return results
        self.skipped = 0
        if norm > self.settings.clip:
            torch._foreach_mul_(gradients, self.settings.clip / norm)
        for group in self._adamw.param_groups:
            group['lr'] = self.settings.rate(done, self.steps)
        for parameter, gradient in zip(self._masters, gradients, strict=True):
            parameter.grad = gradient
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        self.steps += 1
        with torch.no_grad():
            # A short memory at first: the random start should not linger.
            keep = min(self.settings.average, (1 + self.steps) / (10 + self.steps))
            torch._foreach_lerp_(self._averages, self._masters, 1 - keep)
            self._hand_out()
        return results

    def state_dict(self) -> dict:
        """All a resumed training needs to go on with identical numbers."""
        return {'module': self._kept(self.module), 'averaged': self._kept(self.averaged),
                'adamw': self._adamw.state_dict(), 'steps': self.steps}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a `state_dict`."""
        strict = not self._only_trained
        self.module.load_state_dict(state['module'], strict)
        self.averaged.load_state_dict(state['averaged'], strict)
        self._adamw.load_state_dict(state['adamw'])
        self.steps = state['steps']
        if self.replica is not self.module:
            self.replica.load_state_dict(state['module'], strict)  # what is frozen as well

    def _kept(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the part of a module's state that a resumed training needs."""
        if not self._only_trained:
            return module.state_dict()
        names = {name for name, p in self.module.named_parameters() if p.requires_grad}
        return {name: value for name, value in module.state_dict().items() if name in names}

    def map(self, function: Callable[[Part], Result], parts: Iterable[Part]) -> list[Result]:
        """Run a function over parts in the lanes."""
        return list(self._pool.map(function, parts))

    def _gradients(
        self, loss: Callable[[Part], tuple[Tensor, Result]], parts: list[Part]
    ) -> tuple[list[Tensor], list[Result]]:
        """Gradients of the masters, float32, of the mean over all parts of all processes."""
        lanes = self.map(lambda part: self._gradient(loss, part), parts)
        gradients = [g.float() for g in lanes[0][0]]
        for others, _ in lanes[1:]:
            torch._foreach_add_(gradients, [g.float() for g in others])
        torch._foreach_mul_(gradients, 1 / len(parts))
        self.group.average(gradients)
        return gradients, [result for _, result in lanes]

    def _norm(self, gradients: list[Tensor]) -> float:
        """Norm of all gradients together."""
        return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))

    def _hand_out(self) -> None:
        """Give the lanes the master weights."""
        if self.replica is not self.module:
            torch._foreach_copy_(self._replicas, self._masters)

    def _gradient(
        self, loss: Callable[[Part], tuple[Tensor, Result]], part: Part
    ) -> tuple[list[Tensor], Result]:
        value, result = loss(part)
        return list(torch.autograd.grad(value, self._replicas, materialize_grads=True,
                                        allow_unused=True)), result


def _copy(module: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Copy a module, but for frozen weights: of `dtype`, if one is given, they are shared."""
    shared = {id(p): p for p in module.parameters()
              if not p.requires_grad and dtype in (None, p.dtype)}
    return copy.deepcopy(module, shared)
