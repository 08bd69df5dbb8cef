"""What the stamps of images say: how old they are, and whether a clock runs; no ROS in it."""

from collections.abc import Callable
import math

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.policy_node.inference import ReceivedImage, StaleImage

# s in which all images of one stamp are copies of one image, sent again; later, the clock of the
# camera doesn't run.
_COPIES = 1.0


class ImageStamps:
    """
    Watches the clock that images are stamped by, and refuses images that are stale.

    :param camera_clock: ns, the clock that images are stamped by
    :param max_image_age: older images are stale, s; 0: none is
    """

    def __init__(self, camera_clock: Callable[[], int], max_image_age: float) -> None:
        self._camera_clock, self._max_age = camera_clock, max_image_age
        self._stamp = 0  # ns, of the last image that came
        self._since = -math.inf  # s, when the first image of this stamp came
        self.fault = ''

    def note(self, stamp: int, came: float, may_repeat: bool) -> None:
        """
        Note an image that has just come.

        :param stamp: ns, 0 = the camera gives none
        :param came: s of a clock that never jumps
        :param may_repeat: before the answer, a simulation whose time stands still may send its
            image again
        :raises SpecVLAError: the clock was set back, the next image is trusted again; or it
            doesn't run, which is the `fault` until it does
        """
        if not stamp or stamp != self._stamp:
            self._since, self.fault = came, ''
        elif came - self._since > _COPIES and not may_repeat:
            self.fault = (
                f'all images of the last {_COPIES:g} s and more have the stamp '
                f'{stamp * 1e-9:.3f} s, so they count as copies of one: see whether the clock '
                'runs that the camera stamps them by')
            raise SpecVLAError(self.fault)
        back = self._stamp - stamp if stamp else 0
        self._stamp = stamp or self._stamp
        if back > 0:
            raise SpecVLAError(
                f'the clock of the camera was set back by {back * 1e-9:.3f} s: this image is '
                'not acted on, the next one is')

    def ages(self, image: ReceivedImage, now: float) -> tuple[float, float]:
        """
        Return how old an image is, s, NaN where it has no stamp; and how old it is at least.

        :raises StaleImage: it is too old, or its stamp lies in the future
        """
        age = math.nan
        if image.stamp:
            age = (self._camera_clock() - image.stamp) * 1e-9
        least = max(now - image.came, 0.0 if math.isnan(age) else age)
        if self._max_age and (least > self._max_age or age < -self._max_age):
            raise self._stale(age if age < 0 else least)
        return age, least

    def taken_at(self, image: ReceivedImage, now: float, least: float, before: float) -> float:
        """Return when an image was taken, s; before: when the one before it was."""
        # A later image was taken later, whatever a clock that was set says.
        taken = now - least if self._max_age else image.came
        return max(taken, math.nextafter(before, math.inf))

    def check_age(self, age: float, since_begun: float) -> None:
        """Raise StaleImage if the image of an answer is too old by now; all s."""
        if self._max_age and age > self._max_age:
            raise self._stale(age, f' {since_begun:.3f} s after inference began')

    def _stale(self, age: float, when: str = '') -> StaleImage:
        where = f'{age:.3f} s old{when}' if age > 0 else f'from {-age:.3f} s in the future'
        return StaleImage(
            f'the image is {where}, max_image_age is {self._max_age:g} s: see whether the camera '
            'is stuck, and whether its clock is that of this node', age)
