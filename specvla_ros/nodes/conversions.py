"""Camera frames and time stamps between ROS messages and plain Python; needs no rclpy."""

import array
from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from specvla_ros.camera import compressed_to_rgb, to_nanoseconds, to_rgb

__all__ = ['CAMERAS', 'compressed_to_rgb', 'fill_image', 'to_nanoseconds', 'to_rgb']

# By `image_transport`: the message, what is appended to the topic's name, and how it becomes RGB.
CAMERAS = {'raw': (Image, '', to_rgb),
           'compressed': (CompressedImage, '/compressed', compressed_to_rgb)}


def fill_image(message: Any, image: np.ndarray) -> None:
    """
    Put an RGB frame, uint8 [H, W, 3], into a `sensor_msgs/msg/Image`; the header is left alone.

    `array.array('B')` is the one type whose assignment is cheap with rclpy's field checks on and
    off (9 us; 16 ms for bytes with checks on).
    """
    data = array.array('B')
    data.frombytes(memoryview(np.ascontiguousarray(image)).cast('B'))
    message.height, message.width = image.shape[:2]
    message.encoding, message.is_bigendian, message.step = 'rgb8', 0, 3 * image.shape[1]
    message.data = data
