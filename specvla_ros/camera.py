"""
Camera messages → RGB frames and time stamps; needs no ROS.

So a bag is read exactly as a live topic is. A message is anything with the fields of
`sensor_msgs/msg/Image` or `CompressedImage`: rclpy's own classes and a bag reader's alike.

A robot moves on what comes out here. Whatever is not surely a colour picture is refused, and
nothing but SpecVLAError leaves: a node logs it as one line and publishes nothing.
"""

from numbers import Integral
import re
from typing import Any, Protocol

import numpy as np

from specvla_ros.encodings import Encoding, find_encoding
from specvla_ros.errors import one_line, SpecVLAError
from specvla_ros.pictures import decode_picture, MOST_PIXELS, refuse_grey

# Words of `CompressedImage.format` that name depth or channels without colour: the encodings
# 16UC1, 32FC1, 8UC3 ..., and `compressedDepth` of compressed_depth_image_transport.
_NO_COLOUR = re.compile(r'\d+[usf](c\d*)?|compresseddepth|depth|rvl|z16|y16')
_GREY = re.compile(r'mono\d*|gr[ae]y\d*|y8')


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


def to_rgb(message: ImageMessage) -> np.ndarray:
    """
    Return a camera message as uint8 [H, W, 3] RGB, top row first; a view where that is possible.

    The colour encodings of sensor_msgs but nv24 are read: rgb8, bgr8, rgba8, bgra8 and their 16
    bits, Bayer patterns, packed YUV 4:2:2, nv12 and nv21. Row padding (`step`) is respected; alpha
    is ignored.

    :raises SpecVLAError: size, step and data disagree, or the encoding is none of a colour picture
    """
    encoding = find_encoding(message.encoding)
    rows = _rows(message, encoding)
    try:
        return encoding.rgb(rows, bool(message.is_bigendian))
    except SpecVLAError:
        raise
    except Exception as error:  # cv2.error, MemoryError: whatever a conversion raises
        raise SpecVLAError(f'a {message.width} x {message.height} {message.encoding} image cannot '
                           f'be turned into RGB: {one_line(error)}') from error


def compressed_to_rgb(message: CompressedMessage) -> np.ndarray:
    """
    Return a compressed camera message, JPEG or PNG, as uint8 [H, W, 3] RGB.

    Both have to say that it is a colour picture: `format` (see `check_format`) and the data.

    :raises SpecVLAError: one of them says it is none, or the data can't be read
    """
    check_format(message.format)
    return decode_picture(bytes(_bytes(message.data)),
                          f'the compressed image of format {message.format!r}')


def check_format(text: str) -> None:
    """
    See whether `CompressedImage.format` names anything that is no colour picture.

    image_transport writes `ENCODING; CODEC compressed PIXELS` or
    `ENCODING; compressedDepth CODEC`, other nodes `jpeg`, `png` or nothing. One word for grey or
    depth is enough, whatever the others say. A Bayer or YUV encoding may have been turned into
    colour before it was compressed: there the data decides.

    :raises SpecVLAError: it names grey, depth or channels without colours
    """
    if not isinstance(text, str):
        raise SpecVLAError(f'the format of the compressed image is {text!r}, must be a text')
    what = f'a compressed image of format {text!r}'
    for word in re.split(r'[^a-z0-9]+', text.lower()):
        if _NO_COLOUR.fullmatch(word):
            raise SpecVLAError(f'{what} holds depth or channels without colours; name a colour '
                               'camera')
        if _GREY.fullmatch(word):
            raise refuse_grey(f'{what} is grey')


def to_nanoseconds(stamp: Any) -> int:
    """Return a `builtin_interfaces/msg/Time` as nanoseconds."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def _rows(message: ImageMessage, encoding: Encoding) -> np.ndarray:
    """Return the rows without their padding: uint8 [n_rows, row_bytes], a view of the message."""
    height, width = _whole(message, 'height'), _whole(message, 'width')
    step, data = _whole(message, 'step'), _bytes(message.data)
    if height < 1 or width < 1:
        raise SpecVLAError(f'the image is empty: {width} x {height} pixels')
    name = f'a {width} x {height} {message.encoding} image'
    try:
        encoding.check(height, width)
    except SpecVLAError as error:
        raise SpecVLAError(f'{name} cannot be turned into RGB: {error}') from error
    row_bytes, n_rows = encoding.row_bytes(width), encoding.n_rows(height)
    # The padding of the last row may be missing. More than the rows is another picture than said.
    if step < row_bytes or not step * (n_rows - 1) + row_bytes <= len(data) <= step * n_rows:
        raise SpecVLAError(
            f'{name} needs rows of at least {row_bytes} bytes (step), {n_rows} of them; got step '
            f'{step} and {len(data)} bytes, where {max(step, row_bytes) * n_rows} belong')
    if height * width > MOST_PIXELS:
        raise SpecVLAError(f'{name} is too large: {MOST_PIXELS} pixels at most')
    return np.lib.stride_tricks.as_strided(
        np.frombuffer(data, np.uint8), shape=(n_rows, row_bytes), strides=(step, 1),
        writeable=False)


def _whole(message: ImageMessage, name: str) -> int:
    value = getattr(message, name)
    if not isinstance(value, Integral):
        raise SpecVLAError(f'{name} of the image is {value!r}, must be a whole number')
    return int(value)


def _bytes(data: Any) -> memoryview:
    """Return data of bytes (array, bytes, uint8 array, memoryview) as flat bytes; no copy."""
    try:
        view = memoryview(data)
        if view.itemsize == 1:
            return view.cast('B') if view.nbytes else memoryview(b'')
        found = f'{type(data).__name__} with items of {view.itemsize} bytes'
    except (TypeError, ValueError, BufferError):  # no buffer, or one that isn't contiguous
        found = type(data).__name__
    raise SpecVLAError(f'the data of the image is {found}, must be bytes')
