"""
The record of an episode: one JSON line each.

Report, plot and video are made of records alone. So a finished episode never has to be played
again for a new table.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TYPE_CHECKING, TypeVar

from specvla_ros.errors import SpecVLAError
from specvla_ros.typed_files import typed, value_of

if TYPE_CHECKING:  # heavy
    from specvla_ros.decoding.trace import DecodeTrace

# A microsecond is far below the noise of a stage; more digits only make the file longer.
MS_DIGITS = 3
RISK_DIGITS = 6  # of a millionth each, see `decoding.target`


@dataclass(frozen=True, slots=True)
class Deviation:
    """
    How far an action lies from what `ar` gives on the same observation.

    :param max_bins: largest distance of a token from `ar`'s, in bins
    :param mm: mean absolute difference of the translation's components, millimetres
    :param deg: mean absolute difference of the rotation vector's components, degrees
    """

    max_bins: int
    mm: float
    deg: float


@dataclass(frozen=True, slots=True)
class ActionRecord:
    """
    One call of the policy.

    :param tokens: the L token ids
    :param target_passes: forwards of the target, the prefill counted
    :param acceptance_lengths: tokens gained by each pass after the prefill, bonus included
    :param sources: who proposed each of the L tokens: `target` or a drafter's name
    :param stage_ms: time of each stage and `total`, milliseconds
    :param deviation: None where `ar` wasn't run beside it
    :param ros_ms: from the image's stamp to the received action, less the policy's own time;
        None where there was no ROS
    :param risk: how unsure the target was, 0 to 1 (see `DecodeTrace.risk`); None where unknown
    :param steps: control steps executed from it to the next action; None where an action is
        one step, and where nothing executes it
    :param forbidden: tokens at which the target's own choice was a bin that the envelope forbids
    :param unverified: tokens that the target never saw, the last ones of the action
    """

    tokens: tuple[int, ...]
    target_passes: int
    drafted: int
    accepted: int
    acceptance_lengths: tuple[int, ...]
    sources: tuple[str, ...]
    stage_ms: dict[str, float]
    deviation: Deviation | None = None
    ros_ms: float | None = None
    risk: float | None = None
    steps: int | None = None
    forbidden: int = 0
    unverified: int = 0

    @classmethod
    def of(cls, tokens: Iterable[int], trace: 'DecodeTrace', deviation: Deviation | None = None
           ) -> 'ActionRecord':
        """Make a record of an action's tokens and its `DecodeTrace`."""
        return cls(
            tokens=tuple(int(token) for token in tokens),
            target_passes=int(trace.target_passes),
            drafted=int(trace.drafted),
            accepted=int(trace.accepted),
            acceptance_lengths=tuple(int(n) for n in trace.acceptance_lengths),
            sources=tuple(str(source) for source in trace.sources),
            stage_ms={k: round(float(ms), MS_DIGITS) for k, ms in trace.stage_ms.items()},
            deviation=deviation,
            risk=rounded_risk(trace.risk),
            # What answers in the place of a decoder may not count these.
            forbidden=int(getattr(trace, 'forbidden', 0)),
            unverified=int(getattr(trace, 'unverified', 0)),
        )


def rounded_risk(risk: float | None) -> float | None:
    """Return a risk as records have it: None where it is not known."""
    return None if risk is None or math.isnan(risk) else round(float(risk), RISK_DIGITS)


def tokens_sha256(actions: Iterable[ActionRecord]) -> str:
    """Hash all token ids in order."""
    text = json.dumps([action.tokens for action in actions], separators=(',', ':'))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """
    One episode: a stored initial state played under one decoder.

    :param crash: message of the exception that ended it, None if it ran to success or to the
        step limit; a crash is neither a success nor a failure
    """

    suite: str
    task: int
    state: int
    decoder: str
    success: bool
    steps: int
    crash: str | None = None
    actions: tuple[ActionRecord, ...] = field(default_factory=tuple)

    @property
    def key(self) -> tuple[str, int, int, str]:
        """Names the episode: equal after a restart."""
        return self.suite, self.task, self.state, self.decoder

    @property
    def risk(self) -> float | None:
        """How unsure the target was, the mean over the actions; None where it is not known."""
        known = [action.risk for action in self.actions if action.risk is not None]
        return sum(known) / len(known) if known else None

    @property
    def tokens_sha256(self) -> str:
        """Hash of all token ids in order; equal hashes mean equal trajectories of tokens."""
        return tokens_sha256(self.actions)

    def to_json(self) -> str:
        """Return one line of JSON, without the newline."""
        record = {
            'suite': self.suite, 'task': self.task, 'state': self.state,
            'decoder': self.decoder, 'success': self.success, 'steps': self.steps,
            'crash': self.crash, 'tokens_sha256': self.tokens_sha256,
            'actions': [_action_to_dict(action) for action in self.actions],
        }
        return json.dumps(record, separators=(',', ':'))

    @classmethod
    def from_json(cls, line: str) -> 'EpisodeRecord':
        """
        Read one line back.

        :raises ValueError: not such a line, or its tokens don't match its hash
        """
        try:
            record = json.loads(line)
            sha256 = record.pop('tokens_sha256')
            actions = tuple(_action_from_dict(action) for action in record.pop('actions'))
            episode = typed(cls, {**record, 'actions': actions}, 'episode')
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ValueError(f'not an episode record: {error}') from error
        if episode.tokens_sha256 != sha256:
            raise ValueError(f'episode {episode.key}: tokens_sha256 does not match the tokens')
        return episode


def _action_to_dict(action: ActionRecord) -> dict[str, Any]:
    # Not dataclasses.asdict: it copies deeply and is the slowest part of writing an episode.
    record: dict[str, Any] = {
        name: getattr(action, name) for name in ActionRecord.__slots__ if name != 'deviation'}
    if action.deviation is not None:
        deviation = action.deviation
        record['deviation'] = [deviation.max_bins, round(deviation.mm, 4),
                               round(deviation.deg, 4)]
    return record


def _action_from_dict(record: dict[str, Any]) -> ActionRecord:
    deviation = value_of(tuple[int, float, float] | None, record.get('deviation'), 'deviation')
    return typed(ActionRecord, {
        **record, 'deviation': None if deviation is None else Deviation(*deviation)}, 'action')


class Line(Protocol):
    """A record that is kept as one line of a file."""

    def to_json(self) -> str:
        """Return one line of JSON, without the newline."""


T = TypeVar('T', bound=Line)


class RecordLog(Generic[T]):
    """
    The file finished episodes are appended to.

    A line is written with one `write` and synced before the next episode starts. A line cut off
    by a crash or a full disk is dropped when the file is opened again, so its episode is played
    again.
    """

    record: ClassVar[Any]  # class of what a line holds: `to_json`, `from_json`

    def __init__(self, path: Path) -> None:
        """
        Read what is there.

        :raises SpecVLAError: a line other than the last is damaged
        """
        self.path = path
        self.episodes: list[T] = []
        self._length = 0
        if path.exists():
            self._read()

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b'\n') + 1
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                self.episodes.append(self.record.from_json(line.decode()))
            except ValueError as error:
                raise SpecVLAError(f'{self.path}, line {number}: {error}; remove the line to '
                                   'play that episode again') from error
        self._length = whole

    def append(self, episode: T) -> None:
        """
        Write an episode.

        :raises OSError: the disk is full or not writable; the file is left as it was
        """
        line = (episode.to_json() + '\n').encode()
        # Unbuffered: a buffer would be written once more when the file is closed after an error.
        with open(self.path, 'ab', buffering=0) as file:
            file.truncate(self._length)
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[file.write(rest):]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(self._length)
                raise
        self._length += len(line)
        self.episodes.append(episode)


class EpisodeLog(RecordLog[EpisodeRecord]):
    """The file of finished episodes."""

    record = EpisodeRecord
