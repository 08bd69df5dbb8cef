"""A recorded bag in place of a camera and a user: `image` and `instruction` on topics."""

from collections.abc import Sequence
from pathlib import Path
import sys
import time

from rclpy.node import Node

from specvla_ros.bags.frames import FrameReader, only_camera, Skipped
from specvla_ros.bags.reader import Bag
from specvla_ros.errors import counted, SpecVLAError
from specvla_ros.nodes.bag_player import BagPlayer
from specvla_ros.nodes.bag_player_parameters import PARAMETERS
from specvla_ros.nodes.parameters import declare
from specvla_ros.nodes.runtime import run

NAME = 'bag_player_node'
_LOG_PERIOD = 5.0


class BagPlayerNode(Node):
    """Plays a bag once, when a policy is there."""

    def __init__(self) -> None:
        super().__init__(NAME)
        values = declare(self, PARAMETERS)
        if not values['bag']:
            raise SpecVLAError("parameter bag is '', must be a rosbag2 folder")
        self._bag = Bag(Path(values['bag']))
        self._told = ''
        self._tell_missing()
        self._reader = FrameReader(
            self._bag, values['recorded_image_topic'] or only_camera(self._bag),
            values['recorded_instruction_topic'], values['instruction'])
        self._player = BagPlayer(self, values['rate'], values['action_timeout'])

    def work(self) -> None:
        """Wait for a policy and play the bag."""
        while not self._player.has_policy:
            self.get_logger().info('waiting for a policy: no node subscribes to image and '
                                   'publishes action', throttle_duration_sec=_LOG_PERIOD)
            time.sleep(0.05)
        n_frames = sum(1 for _ in self._player.play(self._reader))
        self._tell_missing()  # what reading has shown
        if not n_frames:
            skipped = self._reader.skipped
            raise SpecVLAError(f'no frame of {self._bag.path} can be played: ' + (
                skipped.reason or skipped.words_reason or self._bag.missing
                or 'all came under no instruction; set the parameter instruction'))
        self.get_logger().info(f'done: {counted(n_frames, "frame")}; '
                               f'{_in_words(self._reader.skipped)}')

    def _tell_missing(self) -> None:
        if self._bag.missing != self._told:
            self._told = self._bag.missing
            self.get_logger().warning(f'the bag is not whole: {self._told}')

    def close(self) -> None:
        """Close the bag."""
        self._bag.close()


def _in_words(skipped: Skipped) -> str:
    """Return how many frames were not played, and why."""
    counts = ((skipped.uninstructed, 'came under no instruction'),
              (skipped.repeated, 'were sent again under the same stamp'),
              (skipped.unreadable, f'could not be read ({skipped.reason})'))
    words = [f'{count} {why}' for count, why in counts if count]
    told = f'not played: {", ".join(words)}' if words else 'all were played'
    if skipped.words:
        told += (f'; {skipped.words} instructions or episodes could not be read '
                 f'({skipped.words_reason})')
    return told


def main(args: Sequence[str] | None = None) -> int:
    """Play the bag, or until told to stop; see `runtime.run` for the exit codes."""
    return run(NAME, BagPlayerNode, args)


if __name__ == '__main__':
    sys.exit(main())
