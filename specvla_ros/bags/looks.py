"""Which frames of a bag a policy acts on that carries out several control steps of an action."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from specvla_ros.bags.frames import Frame, LiveAction


@dataclass(frozen=True, slots=True)
class Look:
    """
    A frame to act on.

    executed: control steps between it and the frame acted on before; None = none was, in this
    segment. steps: of its own action that are executed until the next one.
    """

    frame: Frame
    executed: int | None
    steps: int


def looks(frames: Iterable[Frame], live: Mapping[int, LiveAction], execute_steps: int
          ) -> Iterator[Look]:
    """
    Choose frames that are at least so many control steps apart.

    Frames are one control period apart, but behind one that was answered by several steps at once:
    a simulation that waits has executed them before it sent the next frame.

    :param live: recorded actions by the image's stamp, ns
    """
    segment, since = None, 0
    for frame in frames:
        answer = live.get(frame.stamp)
        to_next = 1 if answer is None else answer.at_once
        if frame.segment != segment:
            yield Look(frame, None, max(execute_steps, to_next))
            segment, since = frame.segment, to_next
        elif since >= execute_steps:
            yield Look(frame, since, max(execute_steps, to_next))
            since = to_next
        else:
            since += to_next
