"""
A policy's drafter learns from what its target says, while the policy acts.

Only the words of a lossless decoder are the target's own: under another nothing is learned.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch

from specvla_ros.actions import Action
from specvla_ros.configuration import LOSSLESS
from specvla_ros.decoding.drafters import able, GlanceHead
from specvla_ros.decoding.trace import DecodeTrace
from specvla_ros.drafter_folders import weights_folder
from specvla_ros.errors import counted, one_line, SpecVLAError
from specvla_ros.learning.idle_thread import IdleThread
from specvla_ros.learning.learned_folder import check_learned_folder, write_learned
from specvla_ros.learning.learner import HeadChange, Learner
from specvla_ros.learning.settings import OnlineSettings
from specvla_ros.policy import Policy

_NAME = 'glance'
_TAKE_S = 0.002  # to condense what was seen: less than this free, and the action is passed over
_TOLD = 20  # instructions that are remembered, for the model card


class OnlineLearning:
    """
    Lets the head of a checkpoint's `glance` learn; all policies of that checkpoint share it.

    All but `rest` and `facts` are called by the thread that acts.

    :param say: takes a line for people; called in any thread
    :raises SpecVLAError: nothing may be written to `out`
    """

    def __init__(
        self, policy: Policy, settings: OnlineSettings, say: Callable[[str], None]
    ) -> None:
        self._checkpoint, self._settings, self._say = policy.checkpoint, settings, say
        drafters = self._checkpoint.drafters
        self.learner: Learner | None = None
        self._idle: Callable[[], float] | None = None
        self._thread: IdleThread | None = None
        self._why: tuple[Policy | None, str] = None, ''
        self._told: deque[str] = deque(maxlen=_TOLD)
        self._fault = ''
        if drafters is None or weights_folder(drafters, _NAME) is None:
            self._fault = 'there are no weights of glance: `specvla adapt` makes the first'
        else:
            if settings.out is not None:
                check_learned_folder(settings.out, drafters)
            self._head = cast(GlanceHead, self._checkpoint.drafter_weights(_NAME))
            self.learner = Learner(self._head, settings.learner)
            self._thread = IdleThread(
                self.learner, self._idle_s, settings.idle, self._give_up)
        self._say_why(policy)

    def listen(self, idle_s: Callable[[], float]) -> None:
        """Learn from now on, in the seconds that `idle_s` says; it is asked in another thread."""
        self._idle = idle_s

    def rest(self) -> None:
        """Learn nothing until `listen`; what is known stays."""
        self._idle = None

    def note(self, policy: Policy, action: Action, instruction: str, sequence: int) -> None:
        """
        Take in an action after it was published; put a better head in use for the next.

        :param action: of `policy`: tokens and trace
        :param sequence: of the next action
        """
        if self.learner is None:
            return
        if change := self.learner.carry_out(sequence):
            policy.note_new_weights(self._head)
            self._say(f'glance: {change}')
        if self._say_why(policy) or not _is_own(action.trace) or self._idle_s() < _TAKE_S:
            return
        if instruction not in self._told:
            self._told.append(instruction)
        columns = np.array(action.tokens) - self._checkpoint.space.tokenizer.first_id
        if np.isfinite(features := self._condensed(policy)).all():
            self.learner.take(features, columns.astype(np.int16))

    def mark(self, trace: DecodeTrace) -> None:
        """Say in an action's report which head guessed, if it is not the loaded one."""
        last = self._last
        if last is not None and last.number:
            said = f'glance learned while running, in use since action {last.sequence}'
            trace.reason = '; '.join(filter(None, (trace.reason, said)))

    def facts(self) -> dict[str, str]:
        """Return what there is to tell, for diagnostics."""
        if self.learner is None or self._fault or self._why[1]:
            return {'learning': f'nothing: {self._fault or self._why[1]}'}
        state = self.learner.state
        passes = '' if state.used is None or state.loaded is None else (
            f'{state.used:.2f}, loaded {state.loaded:.2f}')
        return {
            'learning': f'{counted(state.kept, "action")} kept, {counted(state.steps, "step")}',
            'learned head in use': str(state.number or 'none'),
            'passes by the head alone': passes,
            'heads put in use': str(state.swaps), 'heads taken back': str(state.taken_back),
            'last change of heads': '' if state.last is None else str(state.last),
        }

    def end(self) -> None:
        """Learn no more; write the head in use, if it was learned and that is asked for."""
        self._idle = None
        if self._thread is None or self.learner is None:
            return
        self._thread.end()
        self._thread = None
        self.learner.settle()
        head, out = self.learner.head_in_use, self._settings.out
        if out is None:
            return
        if head is None:
            self._say(f'adapt_out: nothing is written to {out}: no learned head is in use')
            return
        try:
            write_learned(out, cast(Path, self._checkpoint.drafters), head, self.learner.state,
                          str(self._checkpoint.folder and self._checkpoint.folder.name),
                          list(self._told))
        except (SpecVLAError, OSError) as error:
            self._say(f'adapt_out: the learned head is lost: {one_line(error)}')
        else:
            self._say(f'adapt_out: the learned head is in {out}: use it with drafter:={out}')

    @property
    def _last(self) -> HeadChange | None:
        return None if self.learner is None else self.learner.in_use

    def _idle_s(self) -> float:
        idle = self._idle
        return 0.0 if idle is None else idle()

    def _give_up(self, error: Exception) -> None:
        self._fault = f'{type(error).__name__}: {one_line(error)}'
        self._say(f'glance learns no more, acting goes on: {self._fault}')

    def _say_why(self, policy: Policy) -> str:
        """Return why nothing is learned under a policy; said once, when it changes."""
        before, why = self._why
        if policy is not before:
            new = self._fault or why_nothing(policy)
            if new and new != why:
                self._say(f'adapt: nothing is learned: {new}')
            self._why = policy, new
        return self._why[1]

    def _condensed(self, policy: Policy) -> np.ndarray:
        """What the head makes of the prompt, float16 [F]; on the CPU a copy of 1 to 6 thousand."""
        prompt = policy.seen
        assert prompt is not None
        patches = self._head.config.patches
        with torch.inference_mode():
            seen = self._head.condense(
                prompt[:, 1 : 1 + patches], prompt[:, 1 + patches :].mean(1))
        return seen[0].to('cpu', torch.float16).numpy()


def why_nothing(policy: Policy) -> str:
    """Return why a policy's decoder teaches nothing, and what to do; '' = it does."""
    config = policy.decoder_config
    if config.verification != LOSSLESS:
        return (f'decoder {config.name} is {config.verification}, so what the target itself would '
                'have said is not known; set decoder to auto or glance')
    members, _ = able(config, policy.checkpoint.drafters)
    if not any(_NAME in it.drafter.name.split('+') for it in members):
        return f'decoder {config.name} does not draft with glance; set decoder to auto or glance'
    return ''


def _is_own(trace: DecodeTrace) -> bool:
    """Whether all tokens are the target's own choice, no bin forbidden."""
    return not trace.forbidden and all(off == 0 for off in trace.bins_off)
