"""A bag played to a policy node over real topics: the same records from what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from dataclasses import dataclass
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specvla_ros.benchmark.bag_replay.offline import Replayed, with_deviations
from specvla_ros.benchmark.records import ActionRecord, rounded_risk
from specvla_ros.benchmark.session import DemoSession

if TYPE_CHECKING:  # heavy
    from specvla_ros.decoding.trace import DecodeTrace

MODULE = 'specvla_ros.nodes.sessions.replay'
# Of a frame's stages; its age is that of the bag.
_NOT_THE_POLICYS = ('queue_age', 'publish')
_OF_THE_TRACE = ('target_passes', 'drafted', 'accepted', 'acceptance_lengths', 'sources')


@dataclass(frozen=True, slots=True)
class PlayedFrame:
    """A frame as the session reports it; see `bags.frames.Frame`."""

    number: int
    stamp: int
    received: int
    segment: int
    instruction: str


@dataclass(frozen=True, slots=True)
class ReportedAction:
    """A node's action as the session reports it; see `policy.Action`."""

    tokens: list[int]
    normalized: NDArray[np.float64]
    si: NDArray[np.float64]
    trace: DecodeTrace


def play_live(specification: dict[str, Any], folder: Path, decoders: Sequence[str],
              on_event: Callable[[dict[str, Any]], None] = lambda event: None) -> list[Replayed]:
    """
    Play the bag once per decoder, in `folder` with its logs.

    :param decoders: their names, in the order of the specification
    :returns: every frame that was sent, with the actions that answered it
    :raises SpecVLAError, SessionDied, KeyboardInterrupt: as `DemoSession.events`
    """
    names = dict(zip(specification['decoders'], decoders))
    session = DemoSession(specification, folder, (sys.executable, '-m', MODULE))
    frames: dict[int, PlayedFrame] = {}
    answers: dict[int, dict[str, Any]] = {}
    for event in session.events():
        on_event(event)
        if event['event'] == 'frame':
            frame = PlayedFrame(**{field.name: event[field.name]
                                   for field in dataclasses.fields(PlayedFrame)})
            frames[frame.number] = frame
        elif event['event'] == 'answer':
            answers.setdefault(event['number'], {})[names[event['decoder']]] = event
    return [_replayed(frame, answers.get(number, {}), decoders)
            for number, frame in sorted(frames.items())]


def _replayed(frame: PlayedFrame, answers: dict[str, dict[str, Any]], decoders: Sequence[str]
              ) -> Replayed:
    actions = {name: _action(answers[name]) for name in decoders if name in answers}
    replayed = with_deviations(frame, actions)
    records = {name: _completed(record, answers[name])
               for name, record in replayed.actions.items()}
    return dataclasses.replace(replayed, actions=records)


def _completed(record: ActionRecord, answer: dict[str, Any]) -> ActionRecord:
    """Return a record with what a session tells of an action beside its trace."""
    return dataclasses.replace(
        record, ros_ms=round(answer['ros_ms'], 3), risk=rounded_risk(answer.get('risk')),
        forbidden=answer.get('forbidden', 0), unverified=answer.get('unverified', 0),
        # Of an action of several control steps only those were sent that are executed.
        steps=len(answer['si']) if len(answer['sources']) > len(answer['si'][0]) else None)


def _action(answer: dict[str, Any]) -> ReportedAction:
    from specvla_ros.decoding.trace import DecodeTrace  # heavy

    stages = {name: ms for name, ms in answer['stage_ms'].items() if name not in _NOT_THE_POLICYS}
    trace = DecodeTrace(**{name: answer[name] for name in _OF_THE_TRACE}, stage_ms=stages)
    return ReportedAction(
        answer['tokens'], np.array(answer['normalized']), np.array(answer['si']), trace)
