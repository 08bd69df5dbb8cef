"""How long answers take, so which steps of them are over or will be; no ROS in it."""

from specvla_ros.execution import Execution


class AnswerPace:
    """
    Counts steps of answers by the time that passes between images, or that a simulation waits.

    inference_s: s that the last inference took; 0 = none yet. said: of the last answer that
    counts, when its image was taken, s, and how many steps it has; None = none yet.

    :param period_s: the control period of the data set
    :param is_paced: an arm's time passes; False: `execution` says how much a simulation executes
    """

    def __init__(self, period_s: float, execution: Execution, is_paced: bool) -> None:
        self._period, self._execution, self._is_paced = period_s, execution, is_paced
        self.inference_s = 0.0
        self.said: tuple[float, int] | None = None

    def executed(self, taken: float) -> int | None:
        """Return how many steps of the last answer were due before an image taken then, s."""
        if self.said is None:
            return None
        last, chunk = self.said
        periods = (round((taken - last) / self._period) if self._is_paced
                   else self._execution.periods(chunk))
        return min(max(periods, 1), chunk)

    def firm_steps(self, age: float) -> int | None:
        """Return how many steps of an answer to an image of this age, s, are firm; None = all."""
        if not self._is_paced:
            return self._execution.firm_steps()
        if not self.inference_s:
            return None  # nothing tells how many of them will be over when it comes
        # One more: inference may take a little longer than the last time.
        return self._execution.firm_steps(int((age + self.inference_s) / self._period) + 1)
