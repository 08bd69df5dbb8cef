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

from specvla_ros.bags.frames import Frame, LiveAction
from specvla_ros.bags.looks import Look, looks
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


@dataclass(frozen=True, slots=True)
class Chunks:
    """
    How actions of several control steps are executed in a bag.

    chunk: H, steps of an action. execute_steps: E of them until the next look. live: recorded
    actions by the image's stamp, ns.
    """

    chunk: int
    execute_steps: int
    live: Mapping[int, LiveAction]


def replay(frames: Iterable[Frame], policies: Mapping[str, PolicyLike],
           chunks: Chunks | None = None) -> Iterator[Replayed]:
    """
    Let each decoder act on each frame, or on those that `looks` chooses.

    A decoder forgets where the instruction or the episode changes. Where `ar` is among them, the
    others' actions carry their deviation from its.

    :param chunks: of actions of several control steps; None = they have one
    """
    names, segment = list(policies), None
    chosen = (Look(frame, None, 1) for frame in frames) if chunks is None else looks(
        frames, chunks.live, chunks.execute_steps)
    for look in chosen:
        frame = look.frame
        told = {} if chunks is None or look.executed is None else {
            'executed': min(look.executed, chunks.chunk)}
        if segment is None:
            warm_up(frame, policies)
        if frame.segment != segment:
            segment = frame.segment
            for policy in policies.values():
                policy.reset()
        turn = frame.number % len(names)
        # With the camera's own time if it has one, as policy_node does.
        taken = frame.stamp * 1e-9 if frame.stamp else None
        actions = {name: policies[name].act(frame.image, frame.instruction, taken, **told)
                   for name in names[turn:] + names[:turn]}
        replayed = with_deviations(frame, {name: actions[name] for name in names})
        yield replayed if chunks is None else _executed(
            replayed, min(look.steps, chunks.chunk))


def _executed(replayed: Replayed, steps: int) -> Replayed:
    """Note that so many steps of each action are executed."""
    return dataclasses.replace(replayed, actions={
        name: dataclasses.replace(action, steps=steps)
        for name, action in replayed.actions.items()})


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
