"""`control_msgs/action/GripperCommand` for the tests' processes: an action of ours, disguised."""
from specvla_ros.action import ExecuteInstruction


class Command:
    """Puts position (m) and greatest effort (N) into fields that there are."""

    def __init__(self, goal):
        self._goal = goal

    @property
    def position(self):
        return float(self._goal.instruction)

    @position.setter
    def position(self, value):
        self._goal.instruction = repr(value)

    @property
    def max_effort(self):
        return self._goal.time_limit

    @max_effort.setter
    def max_effort(self, value):
        self._goal.time_limit = value


class Goal(ExecuteInstruction.Goal):
    __slots__ = []

    @property
    def command(self):
        return Command(self)


# What is generated for a message converts objects of classes with this name only.
Goal.__name__, Goal.__module__ = (
    ExecuteInstruction.Goal.__name__, ExecuteInstruction.Goal.__module__)


class GripperCommand(ExecuteInstruction):
    pass


GripperCommand.Goal = Goal
