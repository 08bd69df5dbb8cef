"""
Guesses from memory: what the target said when it saw nearly the same.

The towers have run before the prefill, so their patches can be looked up in it: the actions of
the nearest descriptors (``action_memory``) stand in the prefill's tree. The database stands beside
the checkpoint, made by ``specvla train retrieval``, or it is filled while running. HeiSD (arXiv
2603.17573) drafts from such a database of DINOv2 and SigLIP features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from specvla_ros.decoding.tree import TokenTree
from specvla_ros.errors import shown, SpecVLAError
from specvla_ros.graphs import Padded, Runner
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.typed_files import is_number

from .action_memory import ActionMemory
from .drafter import DraftContext, Drafter, DRAFTERS
from .side_by_side import chains

_MOST = {'neighbours': 64, 'memory': 2**20}


@DRAFTERS.register('retrieval')
@dataclass(frozen=True, slots=True)
class Retrieval:
    """
    Settings of the drafter `retrieval`: neighbours, memory size, weight of the position.

    neighbours: number of nearest actions to guess, as one tree. memory: actions remembered while
    running, the oldest is forgotten first; 0 = only the database. They outlive an episode, so with
    a relaxed rule an episode's actions depend on those before it. position_scale: where the end
    effector's position is known now and of all entries, the weight of a metre beside the distance
    of descriptors.
    """

    weights: ClassVar[str | None] = 'retrieval'
    may_lack_weights: ClassVar[bool] = True

    neighbours: int = 4
    memory: int = 0
    position_scale: float = 10.0

    def __post_init__(self) -> None:
        for name, least in (('neighbours', 1), ('memory', 0)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= _MOST[name]:
                raise SpecVLAError(f'{name} of the drafter retrieval is {shown(value)}, must be a '
                                   f'whole number from {least} to {_MOST[name]}')
        if not is_number(self.position_scale) or not 0 <= self.position_scale < 1e6:
            raise SpecVLAError(f'position_scale of the drafter retrieval is '
                               f'{shown(self.position_scale)}, must be 0 to 1e6 a metre')

    @staticmethod
    def read(folder: Path | None, target: OpenVLA) -> ActionMemory:
        """Read the database; None = there is none, so nothing is known yet."""
        return ActionMemory.empty(target) if folder is None else ActionMemory.read(folder, target)

    def drafter(self, weights: ActionMemory) -> RetrievalDrafter:
        """Look up in this database; raise SpecVLAError if nothing is there nor will ever be."""
        if not len(weights) and not self.memory:
            raise SpecVLAError(
                'the drafter retrieval has no database and memory is 0, so it could never guess: '
                'make one (`specvla train retrieval`), or set memory to a number of actions')
        return RetrievalDrafter(weights, self)


class RetrievalDrafter(Drafter):
    """
    Guesses the actions that the target said in the most similar situations.

    Image, instruction and, where known, the end effector's position are compared. Entries come
    from a database and from this run (``memory``); their keys are [slots, size + text + 3].
    All slots there will ever be are allocated at the first action, so a graph may read them.
    """

    def __init__(self, memory: ActionMemory, settings: Retrieval) -> None:
        self.settings = settings
        self._memory = memory
        self._entries = self._next = len(memory)  # filled slots; the one to fill next
        self._keys = torch.zeros((0, 0))  # no slots before the first action
        self._tokens = torch.zeros((0, 0), dtype=torch.int64)  # [slots, L]
        self._located = memory.eef_positions is not None or not len(memory)  # all entries
        self._seen: Tensor | None = None  # key [size + 3] of what the action is decoded for
        self._knows_place = False
        self._guessed: Tensor | None = None  # int64 [neighbours, L], the nearest first

    def guess(self, context: DraftContext) -> TokenTree:
        """Look up the prompt; guess the nearest actions from their first tokens on."""
        if not len(self._keys):
            self._allocate(context)
        prompt, runner = context.prompt, context.target.runner
        place = context.situation.eef_position
        scaled = [self.settings.position_scale * it for it in place or (0.0,) * 3]
        where = torch.tensor(scaled).to(prompt.device, non_blocking=True)
        seen = runner.safe_copy(
            runner.run(self._look, Padded(prompt, (1,)), prompt.shape[1], where))
        self._seen, self._knows_place = seen, place is not None
        self._guessed = self._nearest(runner, seen) if self._entries else None
        return self._tree(context, self.settings.neighbours)

    def propose(self, context: DraftContext) -> TokenTree:
        """Go on with the nearest action, whatever is known."""
        return self._tree(context, 1)

    def likeness(self, context: DraftContext) -> float:
        """Cosine of the angle between what ``guess`` saw and the nearest entry's descriptor."""
        if self._seen is None or self._guessed is None:
            return nan
        keys, seen = self._keys[: self._entries, :-3], self._seen[:-3]
        nearest = (keys - seen).square().sum(1).argmin(0, keepdim=True)
        return float(functional.cosine_similarity(keys.index_select(0, nearest), seen[None]))

    def remember(self, tokens: Sequence[int]) -> None:
        """Take in an action, [L] tokens, under what was seen for it."""
        if self.settings.memory and self._seen is not None:
            # Slots allocated in inference mode may be written in no other.
            with torch.inference_mode(self._keys.is_inference()):
                self._store(tokens, self._seen)
            self._seen = None

    def reset(self) -> None:
        """Forget what is seen; the actions remembered stay."""
        self._seen = self._guessed = None

    def _allocate(self, context: DraftContext) -> None:
        """Take in the database, and make room for what will be remembered."""
        memory, more, length = self._memory, self.settings.memory, context.space.length
        if len(memory) and more and (stored := memory.columns.shape[1]) != length:
            raise SpecVLAError(
                f'the database of the drafter retrieval holds actions of {stored} tokens, the '
                f'policy has {length}: set memory to 0, or make one for this chunk')
        places = memory.eef_positions
        if places is None:
            places = torch.zeros((len(memory), 3), device=memory.descriptors.device)
        keys = torch.cat((memory.descriptors, places * self.settings.position_scale), dim=1)
        self._keys = torch.cat((keys, keys.new_zeros((more, keys.shape[1]))))
        tokens = memory.columns if len(memory) else memory.columns.new_zeros((0, length))
        tokens = tokens + context.space.tokenizer.first_id
        self._tokens = torch.cat((tokens, tokens.new_zeros((more, tokens.shape[1]))))

    def _store(self, tokens: Sequence[int], seen: Tensor) -> None:
        """Fill the next slot, for good or until all others are younger."""
        if self._located and not self._knows_place:
            self._keys[:, -3:].zero_()  # a place counts only where all have one
            self._located = False
        self._keys[self._next].copy_(seen)
        if not self._located:
            self._keys[self._next, -3:].zero_()
        self._tokens[self._next].copy_(torch.tensor(tokens), non_blocking=True)
        self._entries = max(self._entries, self._next + 1)
        self._next += 1
        if self._next == len(self._keys):
            self._next = len(self._memory)  # the oldest of those that are not the database's

    def _nearest(self, runner: Runner, seen: Tensor) -> Tensor:
        """Tokens of the nearest entries, int64 [neighbours, L]; on the host by faiss."""
        counts = self._located and self._knows_place
        if self._keys.device.type != 'cpu':
            return runner.safe_copy(runner.run(
                self._search, seen, self._entries, int(counts),
                neighbours=self.settings.neighbours))
        import faiss

        width = self._keys.shape[1] if counts else self._keys.shape[1] - 3
        keys = np.ascontiguousarray(self._keys[: self._entries, :width].numpy())
        most = min(self.settings.neighbours, self._entries)
        _, nearest = faiss.knn(seen[None, :width].numpy(), keys, most)
        return self._tokens[torch.from_numpy(nearest[0])]

    def _look(self, prompt: Tensor, rows: int | Tensor, where: Tensor) -> Tensor:
        """Key [size + 3] of a prompt [1, S, h], of which the first ``rows`` are no padding."""
        patches = self._memory.descriptor.shape.patches
        text = prompt[:, 1 + patches :]
        real = torch.arange(text.shape[1], device=text.device) < rows - (1 + patches)
        text = text.masked_fill(~real[:, None], 0).sum(1) / real.sum()
        described = self._memory.descriptor(prompt[:, 1 : 1 + patches], text)[0]
        return torch.cat((described, where))

    def _search(
        self, seen: Tensor, entries: int | Tensor, counts: int | Tensor, *, neighbours: int
    ) -> Tensor:
        """Tokens of the nearest entries, int64 [neighbours, L]; of fewer the last are repeated."""
        slots = torch.arange(len(self._keys), device=seen.device)
        off = (self._keys - seen).square()
        off = off[:, :-3].sum(1) + off[:, -3:].sum(1) * counts
        off = off.masked_fill(slots >= entries, torch.inf)
        nearest = off.topk(min(neighbours, len(slots)), largest=False).indices
        return self._tokens.index_select(0, nearest.where(nearest < entries, nearest[0]))

    def _tree(self, context: DraftContext, most: int) -> TokenTree:
        """The nearest of the actions found, from the next token on."""
        known = len(context.tokens)
        end = known + context.max_depth
        if self._guessed is None or known >= min(end, self._guessed.shape[1]):
            return TokenTree.empty()
        paths = self._guessed[:most, known:end]
        if paths.device.type == 'cpu':
            return TokenTree.from_paths(paths.tolist(), 'retrieval')
        return chains(paths, 'retrieval')
