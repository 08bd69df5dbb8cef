"""
What a policy sees and does, for the Rerun viewer (https://rerun.io): camera, instruction, motion,
passes, time per stage, and what the safety envelope did.

`ros2 run specvla_ros rerun_node` opens the viewer; with the parameter `save` it writes a file for
it instead. Needs `pip install rerun-sdk`, which does not come with this package: it is 170 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import sys
from types import ModuleType
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from rclpy.node import Node
from std_msgs.msg import String

from specvla_ros.camera import to_nanoseconds
from specvla_ros.errors import SpecVLAError
from specvla_ros.msg import ActionDelta, DecodeReport
from specvla_ros.nodes import qos, waiting
from specvla_ros.nodes.camera_subscription import AUTO, CameraSubscription
from specvla_ros.nodes.conversions import CAMERAS
from specvla_ros.nodes.diagnostics import of_policies
from specvla_ros.nodes.messages import acceptance_lengths_of, deltas_of, stage_ms_of
from specvla_ros.nodes.parameters import declare, Parameter
from specvla_ros.nodes.runtime import run
from specvla_ros.nodes.topics import once, Topics

NAME = 'rerun_node'
PARAMETERS = (
    Parameter('save', '', 'file to write (.rrd); empty: open the viewer'),
    Parameter('image_transport', 'raw', 'raw: sensor_msgs/Image on `image`; compressed: '
              'sensor_msgs/CompressedImage on `image/compressed`',
              choices=('raw', 'compressed')),
    Parameter('jpeg_quality', 85, 'of the camera frames in the recording', low=1, high=100),
)
_TIMELINE = 'ros_time'


class RerunLog:
    """
    Writes our messages to a Rerun recording, each at the time in its stamp.

    :param rerun: the library; :param stream: its `RecordingStream`
    """

    def __init__(self, rerun: ModuleType, stream: Any, jpeg_quality: int) -> None:
        self._rerun, self._stream, self._quality = rerun, stream, jpeg_quality

    def add_frame(self, stamp_ns: int, rgb: np.ndarray) -> None:
        """Log a camera frame uint8 [H, W, 3]."""
        image = self._rerun.Image(np.ascontiguousarray(rgb))
        self._log(stamp_ns, 'camera', image.compress(jpeg_quality=self._quality))

    def add_text(self, stamp_ns: int, path: str, text: str, level: str = 'INFO') -> None:
        """Log a line of text."""
        self._log(stamp_ns, path, self._rerun.TextLog(text, level=level))

    def add_action(self, action: ActionDelta) -> None:
        """Log what the first control step of an action commands."""
        stamp = to_nanoseconds(action.header.stamp)
        step = deltas_of(action)[0]
        self._numbers(stamp, 'action/translation_mm', 1e3 * step[:3])
        self._numbers(stamp, 'action/rotation_deg', np.degrees(step[3:6]))
        self._numbers(stamp, 'action/gripper', step[6:])
        if action.limited:
            self.add_text(stamp, 'safety', f'action {action.sequence} limited', 'WARN')

    def add_report(self, report: DecodeReport) -> None:
        """Log what an action cost."""
        stamp = to_nanoseconds(report.header.stamp)
        self._numbers(stamp, 'decode/passes', [report.target_passes])
        lengths = acceptance_lengths_of(report)
        if lengths:
            self._numbers(stamp, 'decode/acceptance_length', [np.mean(lengths)])
        for name, milliseconds in stage_ms_of(report).items():
            self._numbers(stamp, f'ms/{name}', [milliseconds])

    def _numbers(self, stamp_ns: int, path: str, values: Sequence[float] | np.ndarray) -> None:
        self._log(stamp_ns, path, self._rerun.Scalars(np.asarray(values, np.float64)))

    def _log(self, stamp_ns: int, path: str, what: Any) -> None:
        self._stream.set_time(_TIMELINE, timestamp=np.datetime64(stamp_ns, 'ns'))
        self._stream.log(path, what)


class RerunNode(Node):
    """
    Logs the messages of a policy to the Rerun viewer or a file.

    :param open_stream: makes the `RecordingStream` and the `RerunLog` on it
    """

    def __init__(self, open_stream: Callable[[str, int], tuple[Any, RerunLog]]) -> None:
        super().__init__(NAME)
        values = declare(self, PARAMETERS)
        self._stream, self._recording = open_stream(values['save'], values['jpeg_quality'])
        self._heard = {'instruction': '', 'state': ''}
        topics = Topics(self)
        camera, suffix, to_frame = CAMERAS[values['image_transport']]
        name = self.resolve_topic_name('image') + suffix
        CameraSubscription(self, topics, camera, name, self._guarded(
            name, lambda message: self._recording.add_frame(
                self._stamp(message), to_frame(message))), AUTO)
        for kind, topic, handle, profile in (
                (ActionDelta, 'action', self._recording.add_action, qos.STREAM),
                (DecodeReport, 'decode_report', self._recording.add_report, qos.STREAM),
                (DiagnosticArray, '/diagnostics', self._diagnostics, qos.STREAM)):
            topics.subscribe(kind, topic, self._guarded(topic, handle), profile,
                             'publish with reliability reliable')
        topics.subscribe_to_all(
            String, 'instruction',
            once(lambda message: self._say('instruction', message.data)), is_latched=True)

    def work(self) -> None:
        """Wait until told to stop; everything is done in the callbacks."""
        waiting.for_ever()

    def close(self) -> None:
        """Write what is still in memory."""
        self._stream.flush()
        self._stream.disconnect()

    def _guarded(self, topic: str, handle: Callable[[Any], None]) -> Callable[[Any], None]:
        """Let a message that can't be right be missing, and nothing else."""
        def received(message: Any) -> None:
            try:
                handle(message)
            except ValueError as error:
                self.get_logger().warning(
                    f'{topic}: {error}; not recorded', throttle_duration_sec=5.0)
        return received

    def _diagnostics(self, message: DiagnosticArray) -> None:
        """Log what the policy node says of itself."""
        for state, _ in of_policies(message):
            self._say('state', state)

    def _say(self, path: str, text: str) -> None:
        """Log a text where it is news: latched ones are heard twice, diagnostics every second."""
        if text != self._heard[path]:
            self._heard[path] = text
            self._recording.add_text(self.get_clock().now().nanoseconds, path, text)

    def _stamp(self, message: Any) -> int:
        """Nanoseconds of a camera's stamp; now, where it has none."""
        return to_nanoseconds(message.header.stamp) or self.get_clock().now().nanoseconds


def open_rerun(path: str, jpeg_quality: int) -> tuple[Any, RerunLog]:
    """
    Open the viewer or a file.

    :raises SpecVLAError: the library isn't there, or the file can't be written
    """
    try:
        import rerun
    except ImportError as error:
        raise SpecVLAError(
            f'rerun_node needs rerun-sdk ({error}): pip install rerun-sdk') from error
    stream = rerun.RecordingStream('specvla_ros')
    try:
        stream.save(path) if path else stream.spawn()
    except (OSError, RuntimeError) as error:
        raise SpecVLAError(f'parameter save is {path!r}: {error}') from error
    return stream, RerunLog(rerun, stream, jpeg_quality)


def main(args: Sequence[str] | None = None) -> int:
    """Record until told to stop; see `runtime.run` for the exit codes."""
    return run(NAME, lambda: RerunNode(open_rerun), args)


if __name__ == '__main__':
    sys.exit(main())
