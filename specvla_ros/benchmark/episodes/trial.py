"""An episode to be played, as a job for a worker, and one under way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trial:
    """An initial state, and the decoder that is to play it."""

    suite: str
    task: int
    state: int
    decoder: str

    @property
    def place(self) -> tuple[str, int, int]:
        """
        Suite, task and initial state.

        A policy is made for a suite, and a simulator, in 8 s, for a task. All decoders play a
        state one after the other, if possible on one worker: other load hits them alike.
        """
        return self.suite, self.task, self.state


@dataclass(frozen=True, slots=True)
class Playing:
    """
    An episode under way.

    :param steps: control steps done
    :param note: what else is worth seeing, e.g. the passes of the last action
    """

    suite: str
    task: int
    state: int
    decoder: str
    steps: int = 0
    note: str = ''
