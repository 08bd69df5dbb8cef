"""
A bag played to several decoders in this process: the same frames, in order, the same weights.

Every frame goes to all decoders one after the other, in an order that rotates from frame to frame,
so that other load on the machine hits them alike. The tokens don't depend on the speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
from dataclasses import dataclass
from typing import Protocol

from specvla_ros.bags.frames import Frame
from specvla_ros.benchmark.deviation import deviation
from specvla_ros.benchmark.policy_like import ActionLike, PolicyLike, WARM_UP_ACTIONS
from specvla_ros.benchmark.records import ActionRecord
from specvla_ros.benchmark.report import BASELINE


class FrameLike(Protocol):
    """The part of a frame that a record needs; see `bags.frames.Frame`."""

    @property
    def number(self) -> int: ...

    @property
    def stamp(self) -> int: ...

    @property
    def received(self) -> int: ...

    @property
    def segment(self) -> int: ...

    @property
    def instruction(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Replayed:
    """A frame and the actions of the decoders that acted on it; stamp, received: ns."""

    number: int
    stamp: int
    received: int
    instruction: str
    segment: int
    actions: dict[str, ActionRecord]


def replay(frames: Iterable[Frame], policies: Mapping[str, PolicyLike]) -> Iterator[Replayed]:
    """
    Let each decoder act on each frame.

    A decoder forgets where the instruction or the episode changes. Where `ar` is among them, the
    others' actions carry their deviation from its.
    """
    names, segment = list(policies), None
    for frame in frames:
        if segment is None:
            warm_up(frame, policies)
        if frame.segment != segment:
            segment = frame.segment
            for policy in policies.values():
                policy.reset()
        turn = frame.number % len(names)
        # With the camera's own time if it has one, as policy_node does.
        taken = frame.stamp * 1e-9 if frame.stamp else None
        actions = {name: policies[name].act(frame.image, frame.instruction, taken)
                   for name in names[turn:] + names[:turn]}
        yield with_deviations(frame, {name: actions[name] for name in names})


def warm_up(frame: Frame, policies: Mapping[str, PolicyLike]) -> None:
    """Let each decoder act a few times, so that the first timed action is like the others."""
    for policy in policies.values():
        for _ in range(WARM_UP_ACTIONS):
            policy.act(frame.image, frame.instruction)


def with_deviations(frame: FrameLike, actions: Mapping[str, ActionLike]) -> Replayed:
    """Make the record of a frame; actions: those of the decoders that acted on it, by name."""
    records = {name: ActionRecord.of(action.tokens, action.trace)
               for name, action in actions.items()}
    for name, action in actions.items():
        if BASELINE in actions and name != BASELINE:
            records[name] = dataclasses.replace(
                records[name], deviation=deviation(action, actions[BASELINE]))
    return Replayed(frame.number, frame.stamp, frame.received, frame.instruction, frame.segment,
                    records)
