"""One inference of a policy, from its image to the control steps it publishes; no ROS in it."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.policy_node.request_inbox import InferenceRequest
from specvla_ros.safety import StepLimits


class StaleImage(SpecVLAError):
    """The image is too old, or from the future; age: s."""

    def __init__(self, message: str, age: float) -> None:
        super().__init__(message)
        self.age = age


@dataclass(frozen=True, slots=True)
class ReceivedImage:
    """An image: its stamp, ns (0 = none), and when it came, s on `Pilot`'s clock."""

    message: Any
    stamp: int
    came: float


@dataclass(frozen=True, slots=True)
class Inference:
    """
    One inference: its request, when it began, and where the robot was then.

    age: s when the work began, NaN where the camera gives no stamp; least_age: the same, or how
    long ago it came if that is more. taken: when the image was, and begun: when the work did, s on
    `Pilot`'s clock. eef_position: of the end effector then, m; None: not known. limits: what
    the envelope leaves of the next control step. executed: how many steps of the last answer
    belong to times before this image; None where there is none, or it was dropped. firm_steps: how
    many of the answer's steps the next answer is not expected to say again in time; None = all.
    """

    request: InferenceRequest
    age: float
    least_age: float
    taken: float
    begun: float
    eef_position: tuple[float, float, float] | None
    limits: StepLimits
    executed: int | None = None
    firm_steps: int | None = None

    @property
    def image(self) -> ReceivedImage:
        """The image."""
        return self.request.image


@dataclass(frozen=True, slots=True)
class ControlSteps:
    """
    Control steps to publish now, inside the envelope.

    inference, action: what was acted on, and its result. first: number of the first of these
    steps in the action. is_new: nothing of this action was published before. deltas: float64
    [steps, 7], SI. limited_by: the settings that changed them. period: the control period in which
    the first of them is executed, counted from the image's: `first`, but where a simulated
    latency is longer than the action.
    """

    inference: Inference
    action: Any
    first: int
    is_new: bool
    deltas: np.ndarray
    limited_by: tuple[str, ...]
    period: int


class Arm(Protocol):
    """Publishes what the arm shall do; called by one thread at a time."""

    def move(self, steps: ControlSteps) -> float:
        """Publish control steps; return when they were, s on the pilot's clock."""

    def stand_still(self, gripper: float, keeps_target: bool) -> None:
        """Publish that the arm stays where it is or, if it `keeps_target`, at its last target."""
