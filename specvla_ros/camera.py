"""
Camera messages → RGB frames and time stamps; needs no ROS.

So a bag is read exactly as a live topic is. A message is anything with the fields of
`sensor_msgs/msg/Image` or `CompressedImage`: rclpy's own classes and a bag reader's alike.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from specvla_ros.errors import SpecVLAError

_JPEG = b'\xff\xd8'  # how every JPEG begins, one that was cut off too
# Encodings that only need their channels picked, and OpenCV's name for that: numpy takes over 1 ms
# for a frame of 640 x 480, OpenCV a fiftieth. Everything else goes through a library.
_CHANNELS = {
    'rgb8': (3, None),
    'bgr8': (3, 'COLOR_BGR2RGB'),
    'rgba8': (4, 'COLOR_RGBA2RGB'),
    'bgra8': (4, 'COLOR_BGRA2RGB'),
    'mono8': (1, 'COLOR_GRAY2RGB'),
}


class ImageMessage(Protocol):
    """What is used of `sensor_msgs/msg/Image`."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedMessage(Protocol):
    """What is used of `sensor_msgs/msg/CompressedImage`."""

    format: str
    data: Any


@dataclass(slots=True)
class _PackedImage:
    """An image without row padding, in the shape rosbags-image reads."""

    height: int
    width: int
    encoding: str
    is_bigendian: bool
    data: np.ndarray


def to_rgb(message: ImageMessage) -> np.ndarray:
    """
    Return a camera message as uint8 [H, W, 3] RGB, top row first; a view where that is possible.

    rgb8, bgr8, rgba8, bgra8 and mono8 are read here; any other encoding goes through cv_bridge
    where it is installed, else through rosbags-image. Row padding (`step`) is respected.

    :raises SpecVLAError: size and data disagree, or the encoding cannot be turned into RGB
    """
    if message.encoding in _CHANNELS:
        n_channels, conversion = _CHANNELS[message.encoding]
        pixels = _rows(message, message.width * n_channels).reshape(
            message.height, message.width, n_channels)
        if conversion is None:
            return pixels
        import cv2
        return cv2.cvtColor(pixels, getattr(cv2, conversion))
    return _convert(message)


def compressed_to_rgb(message: CompressedMessage) -> np.ndarray:
    """
    Return a compressed camera message as uint8 [H, W, 3] RGB: JPEG, or what OpenCV reads (PNG).

    :raises SpecVLAError: it holds depth, or the data can't be read as such an image
    """
    import simplejpeg
    data = bytes(message.data)
    if 'compresseddepth' in message.format.lower().replace(' ', ''):
        raise SpecVLAError(f'a compressed image of format {message.format!r} holds depth; '
                           'name a colour camera')
    try:
        if data.startswith(_JPEG):
            return simplejpeg.decode_jpeg(data, colorspace='RGB')
    except ValueError as error:
        raise SpecVLAError(f'the compressed image is no valid JPEG: {error}') from error
    import cv2
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if image is None:
        raise SpecVLAError(
            f'the compressed image, {len(data)} bytes of format {message.format!r}, is neither '
            'JPEG nor PNG')
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def to_nanoseconds(stamp: Any) -> int:
    """Return a `builtin_interfaces/msg/Time` as nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def _rows(message: ImageMessage, row_bytes: int) -> np.ndarray:
    """Return the rows without their padding: uint8 [H, row_bytes], a view of the message."""
    height, width, step = message.height, message.width, message.step
    if height < 1 or width < 1:
        raise SpecVLAError(f'the image is empty: {width} x {height} pixels')
    if step < row_bytes or len(message.data) < step * height - (step - row_bytes):
        raise SpecVLAError(
            f'a {width} x {height} {message.encoding} image needs rows of at least {row_bytes} '
            f'bytes, {row_bytes * height} bytes in all; got step {step} and '
            f'{len(message.data)} bytes')
    data = np.frombuffer(message.data, np.uint8)
    return np.lib.stride_tricks.as_strided(
        data, shape=(height, row_bytes), strides=(step, 1), writeable=False)


def _convert(message: ImageMessage) -> np.ndarray:
    if 'C' in message.encoding or not message.encoding:  # 8UC3, 16UC1, 32FC1: depth or no colour
        raise SpecVLAError(_unsupported(message, "doesn't say which channel is which colour"))
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError:
        return _convert_with_rosbags(message)
    try:
        return CvBridge().imgmsg_to_cv2(message, desired_encoding='rgb8')
    except CvBridgeError as error:
        raise SpecVLAError(_unsupported(message, str(error))) from error


def _convert_with_rosbags(message: ImageMessage) -> np.ndarray:
    try:
        from rosbags.image import ImageError, message_to_cvimage
        from rosbags.image.image import to_cvtype
    except ImportError as error:
        raise SpecVLAError(_unsupported(
            message, 'needs cv_bridge or rosbags-image, and neither is installed')) from error
    import cv2
    if message.encoding in ('nv12', 'nv21'):  # rosbags-image takes `height` for all planes' rows
        raise SpecVLAError(_unsupported(message, 'needs cv_bridge, which is not installed'))
    try:
        _, _, dtype, n_channels = to_cvtype(message.encoding)
        # rosbags-image ignores `step`: padded rows would come out skewed.
        rows = _rows(message, message.width * n_channels * np.dtype(dtype).itemsize)
        packed = _PackedImage(message.height, message.width, message.encoding,
                              bool(message.is_bigendian), np.ascontiguousarray(rows))
        return message_to_cvimage(packed, 'rgb8')
    except (ImageError, cv2.error) as error:
        raise SpecVLAError(_unsupported(message, str(error))) from error


def _unsupported(message: ImageMessage, why: str) -> str:
    return (f'image encoding {message.encoding!r} cannot be turned into RGB ({why}); publish one '
            f'of {", ".join(_CHANNELS)}, a Bayer pattern or packed YUV 4:2:2')
