"""
A bag played to several decoders in this process: the same frames, in order, the same weights.

Every frame goes to all decoders one after the other, in an order that rotates from frame to frame,
so that what the machine does meanwhile hits them alike. Nothing depends on how fast it goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import dataclasses
from dataclasses import dataclass
from typing import Any

from specvla_ros.bags.frames import Frame
from specvla_ros.benchmark.deviation import deviation
from specvla_ros.benchmark.policy_like import PolicyLike, WARM_UP_ACTIONS
from specvla_ros.benchmark.records import ActionRecord
from specvla_ros.benchmark.report import BASELINE


@dataclass(frozen=True, slots=True)
class Replayed:
    """A frame and what each decoder that acted on it made of it; stamp, received: ns."""

    number: int
    stamp: int
    received: int
    instruction: str
    segment: int
    actions: dict[str, ActionRecord]


def replay(frames: Iterable[Frame], actors: dict[str, PolicyLike]) -> Iterator[Replayed]:
    """
    Let each decoder act on each frame.

    A decoder forgets where the instruction or the episode changes. Where `ar` is among them, the
    others' actions carry their deviation from its.
    """
    names, segment = list(actors), None
    for frame in frames:
        if segment is None:
            warm_up(frame, actors)
        if frame.segment != segment:
            segment = frame.segment
            for actor in actors.values():
                actor.reset()
        turn = frame.number % len(names)
        # As policy_node: with the camera's own time, if it has one.
        taken = frame.stamp * 1e-9 if frame.stamp else None
        actions = {name: actors[name].act(frame.image, frame.instruction, taken)
                   for name in names[turn:] + names[:turn]}
        yield with_deviations(frame, {name: actions[name] for name in names})


def warm_up(frame: Frame, actors: dict[str, PolicyLike]) -> None:
    """Let each decoder act a few times, so that the first timed action is like the others."""
    for actor in actors.values():
        for _ in range(WARM_UP_ACTIONS):
            actor.act(frame.image, frame.instruction)


def with_deviations(frame: Frame, actions: dict[str, Any]) -> Replayed:
    """Make the record of a frame; actions: `policy.Action`s by decoder."""
    records = {name: ActionRecord.of(action.tokens, action.trace)
               for name, action in actions.items()}
    for name, action in actions.items():
        if BASELINE in actions and name != BASELINE:
            records[name] = dataclasses.replace(
                records[name], deviation=deviation(action, actions[BASELINE]))
    return Replayed(frame.number, frame.stamp, frame.received, frame.instruction, frame.segment,
                    records)
