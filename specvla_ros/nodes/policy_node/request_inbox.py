"""Where callbacks leave images and instructions, and inference takes the newest; no ROS in it."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
import threading
from typing import Any

# Number of stamps to remember: 12 s of images, one each 50 ms. `Pilot.take` refuses older images.
_STAMPS = 256


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """
    A request to a policy: an image, and the instruction that held when it was taken.

    image: the message as it arrived. policy: what `RequestInbox.set_policy` was last given.
    revision: counts instructions; `RequestInbox.answer` compares it.
    """

    image: Any
    instruction: str
    policy: Any
    revision: int


class RequestInbox:
    """
    Holds the newest image and the instruction, and says which answers count.

    * Nothing can be taken before both are there; an older image is never kept for later.
    * An image is answered at most once. Its `stamp` (ns, 0 = unknown) tells a resent copy, also
      one that comes after a clock was set back.
    * An answer counts only if the instruction it was made for still holds when it is given. If it
      doesn't, and no newer image has come, the same image may be taken again for the new one.
    * While it is paused nothing can be taken, nothing counts, and images are not kept; the
      instruction is.
    """

    def __init__(self, policy: Any = None) -> None:
        self._lock = threading.RLock()
        self._policy = policy
        self._image: Any = None
        self._under_way: Any = None
        self._last_stamp = 0
        self._taken_stamps: deque[int] = deque(maxlen=_STAMPS)
        self._instruction = ''
        self._revision = 0
        self._paused = False

    def put_image(self, image: Any, stamp: int = 0) -> bool:
        """Make `image` the newest; False if it is a copy of an earlier one, or while paused."""
        with self._lock:
            if self._paused or (stamp and (stamp == self._last_stamp
                                           or stamp in self._taken_stamps)):
                return False
            self._image, self._last_stamp = image, stamp
            return True

    def put_instruction(self, instruction: str) -> bool:
        """
        Follow another instruction from now on; '' means none: nothing can be taken then.

        Returns False if it is the one that holds already: that cancels nothing.
        """
        with self._lock:
            if instruction == self._instruction:
                return False
            self._instruction, self._revision = instruction, self._revision + 1
            if self._image is None:
                self._image = self._under_way
            self._under_way = None
            return True

    def set_policy(self, policy: Any) -> None:
        """Give this policy to later requests; the one under way keeps its own."""
        with self._lock:
            self._policy = policy

    def take(self) -> InferenceRequest | None:
        """Take the image and the instruction; None unless both are there."""
        with self._lock:
            if self._image is None or not self._instruction:
                return None
            self._under_way, self._image = self._image, None
            if self._last_stamp:
                self._taken_stamps.append(self._last_stamp)
            return InferenceRequest(
                self._under_way, self._instruction, self._policy, self._revision)

    @property
    def waiting(self) -> Any:
        """The image that `take` would take now; None where there is none."""
        with self._lock:
            return self._image if self._instruction else None

    def holds(self, request: InferenceRequest) -> bool:
        """Whether an answer would count now."""
        with self._lock:
            return request.revision == self._revision

    def answer(self, request: InferenceRequest, publish: Callable[[], None]) -> bool:
        """
        Call `publish` if the request's instruction still holds, and say whether it did.

        Instructions wait while `publish` runs: none can slip in between check and publishing. An
        answer of several control steps is given step by step.
        """
        with self._lock:
            if request.revision != self._revision:
                return False
            self._forget(request)
            publish()
            return True

    def pause(self) -> None:
        """Let nothing count any more; when this returns, no `publish` runs and none will."""
        with self._lock:
            self._paused = True
            self.forget_images()

    def forget_images(self) -> None:
        """Let nothing count that answers an image seen so far; go on with the next one."""
        with self._lock:
            self._revision += 1
            self._image = self._under_way = None

    def resume(self) -> None:
        """Go on with the next image."""
        with self._lock:
            self._paused = False

    def drop(self, request: InferenceRequest) -> None:
        """Give up on a request (a bad image, say): its image will not be taken again."""
        with self._lock:
            if request.revision == self._revision:
                self._forget(request)

    def _forget(self, request: InferenceRequest) -> None:
        """Don't take this image again; the one under way may be a newer one by now."""
        if self._under_way is request.image:
            self._under_way = None
