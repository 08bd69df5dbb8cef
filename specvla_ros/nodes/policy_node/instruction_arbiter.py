"""Which instruction holds, of those heard on the topic and those of goals; no ROS in it."""

from collections import deque
from dataclasses import dataclass, field
import enum

# s: a text that is heard again sooner than this goes on being repeated; later, it is said anew.
# `ros2 topic pub` repeats at 1 Hz.
PAUSE = 3.0
_REGULAR = 3  # gaps of about one length: a slow repeater, whose pause is longer
_MOST_TEXTS = 32
_MOST_COPIES = 256


class Novelty(enum.Enum):
    """Says whether a text on the topic is new."""

    NEW = 'it holds from now on'
    KNOWN = 'a copy of what was heard, or what holds already'
    REPEATED = 'it was said before something newer, and is only repeated'
    OUTDATED = 'it was written before what holds, and kept for those who join late'


@dataclass(frozen=True, slots=True)
class HeardText:
    """
    A text as it was heard on a topic.

    stamp: when it was written, ns, by the clock of its publisher; 0: unknown.
    is_kept: it may be of any age: its publisher keeps the last for those who join late.
    number: counts what its publisher wrote, from 1; 0: unknown.
    speakers: the publishers there were on the topic; the message doesn't say which of them it was.
    """

    text: str
    stamp: int
    is_kept: bool = False
    number: int = 0
    speakers: frozenset[bytes] = frozenset()


@dataclass(slots=True)
class _Said:
    """When a text was heard last on the topic, and how regularly."""

    at: float
    number: int
    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=_REGULAR))

    @property
    def pause(self) -> float:
        if len(self.gaps) == _REGULAR and max(self.gaps) < 1.5 * min(self.gaps):
            return max(PAUSE, 3 * max(self.gaps))
        return PAUSE


class InstructionArbiter:
    """
    Decides which instruction holds: the newest text on the topic, goal, or end of a goal.

    * Texts that are heard live hold in the order in which they come. Their stamps are of several
      clocks. So stamps only tell copies (the same text on another subscription), and say where
      texts belong that a publisher kept for late joiners.
    * Repeating a text says nothing new. After something newer (a goal, its end, another text) the
      same text holds again only if it is said anew: by a new publisher, after a pause, or by the
      only publisher there is after it said something else.
    * The empty text always holds: it stops.
    """

    def __init__(self) -> None:
        self.text = ''
        self._stamp = 0
        self._copies: deque[tuple[int, str]] = deque(maxlen=_MOST_COPIES)
        self._said: dict[str, _Said] = {}
        self._last: HeardText | None = None

    def say(self, text: str, stamp: int) -> bool:
        """Let a goal's text hold, or '' at its end; False if it holds already. stamp: now, ns."""
        changed = text != self.text
        self.text, self._stamp = text, stamp
        return changed

    def hear(self, heard: HeardText, now: float) -> Novelty:
        """Take a text from the topic. now: s, of a clock that goes while the node listens."""
        if heard.stamp:
            copy = heard.stamp, heard.text
            if copy in self._copies:
                return Novelty.KNOWN
            if heard.is_kept and heard.stamp <= self._stamp:
                # Not noted as heard: if it is live and its clock is slow, its live copy counts.
                return Novelty.OUTDATED
            self._copies.append(copy)
        is_new = self._is_new(heard, now)
        self._note(heard, now)
        if heard.text == self.text:
            self._stamp = heard.stamp
            return Novelty.KNOWN
        if heard.text and not is_new:
            return Novelty.REPEATED
        self.text, self._stamp = heard.text, heard.stamp
        return Novelty.NEW

    def _is_new(self, heard: HeardText, now: float) -> bool:
        said = self._said.get(heard.text)
        return (said is None or heard.number == 1 or now - said.at > said.pause
                or self._turns(heard, said))

    def _turns(self, heard: HeardText, said: _Said) -> bool:
        """Say whether one and the same publisher said this text, then another, and now this."""
        last = self._last
        return (last.text != heard.text and len(heard.speakers) == 1
                and last.speakers == heard.speakers
                and 0 < said.number < last.number < heard.number)

    def _note(self, heard: HeardText, now: float) -> None:
        self._last = heard
        said = self._said.pop(heard.text, None)
        if said is None:
            said = _Said(now, heard.number)
        else:
            said.gaps.append(now - said.at)
            said.at, said.number = now, heard.number
        self._said[heard.text] = said  # the last one heard is the last of all
        if len(self._said) > _MOST_TEXTS:
            del self._said[next(iter(self._said))]
