"""How often images come, and from when on the camera counts as lost; no ROS in it."""

from collections import deque
import math

_INTERVALS = 5  # that are remembered
# One image may get lost on the way (best effort); where two are missing the camera is.
_PATIENCE = 2.5


class CameraRhythm:
    """
    Measures how often new images come, s of a clock that never jumps; copies do not count.

    :param period_s: control period; no interval counts as shorter than that
    """

    def __init__(self, period_s: float) -> None:
        self._period = period_s
        self._last = -math.inf
        self._intervals: deque[float] = deque(maxlen=_INTERVALS)

    def note(self, now: float) -> None:
        """Note that a new image came."""
        if math.isfinite(self._last):
            self._intervals.append(now - self._last)
        self._last = now

    def loss(self, now: float, most: float) -> str:
        """
        Return the fault if the camera counts as lost, else ''.

        The longest of the last intervals counts: a camera may be slow, or send in pairs.

        :param most: longest patience, s, whatever the intervals were
        """
        usual = max(self._intervals, default=math.inf)
        patience = min(most, _PATIENCE * max(usual, self._period))
        if now - self._last <= patience:
            return ''
        return (f'no new image for more than {patience:.3g} s, so what was answered to the last '
                'one ends: see whether the camera runs')
