"""Camera messages of every kind become RGB; what can't is refused with a reason."""
import array
import sys

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
import simplejpeg

from specvla_ros.camera import compressed_to_rgb, to_rgb
from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.conversions import fill_image

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def message(pixels, encoding, padding=0):
    """Return an image whose rows are followed by so many bytes of garbage; the last isn't."""
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1).view(np.uint8)
    height, row_bytes = rows.shape
    padded = np.full((height, row_bytes + padding), 99, np.uint8)
    padded[:, :row_bytes] = rows
    data = array.array('B')
    data.frombytes(padded.tobytes()[:padded.size - padding])
    image = Image(height=height, width=pixels.shape[1], encoding=encoding,
                  step=row_bytes + padding)
    image.data = data
    return image


def with_alpha(pixels):
    return np.concatenate([pixels, np.full((*pixels.shape[:2], 1), 77, np.uint8)], axis=2)


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding, pixels', [
    ('rgb8', RGB), ('bgr8', RGB[..., ::-1]), ('rgba8', with_alpha(RGB)),
    ('bgra8', with_alpha(RGB[..., ::-1])),
])
def test_colour(encoding, pixels, padding):
    np.testing.assert_array_equal(to_rgb(message(pixels, encoding, padding)), RGB)


@pytest.mark.parametrize('padding', [0, 5])
def test_grey(padding):
    grey = RGB[..., 0]
    np.testing.assert_array_equal(
        to_rgb(message(grey, 'mono8', padding)), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize('padding', [0, 6])
def test_sixteen_bits_of_grey(padding):
    grey = RGB[..., 0].astype(np.uint16) * 257
    np.testing.assert_array_equal(
        to_rgb(message(grey, 'mono16', padding)), np.stack([RGB[..., 0]] * 3, axis=-1))


@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding, code', [
    ('yuv422', cv2.COLOR_YUV2RGB_UYVY), ('yuv422_yuy2', cv2.COLOR_YUV2RGB_YUYV)])
def test_packed_yuv(encoding, code, padding):
    packed = RGB[..., :2]
    np.testing.assert_array_equal(
        to_rgb(message(packed, encoding, padding)), cv2.cvtColor(packed, code))


def test_a_bayer_pattern():
    """A red light through an RGGB filter comes out red."""
    mosaic = np.zeros((8, 8), np.uint8)
    mosaic[::2, ::2] = 200
    rgb = to_rgb(message(mosaic, 'bayer_rggb8'))[2:-2, 2:-2]
    assert rgb[..., 0].mean() > 150
    assert rgb[..., 2].max() < 50


def test_what_fill_image_writes_to_rgb_reads_without_a_copy():
    image = Image()
    fill_image(image, RGB[:, ::-1])
    read = to_rgb(image)
    np.testing.assert_array_equal(read, RGB[:, ::-1])
    assert np.shares_memory(read, np.frombuffer(image.data, np.uint8))


@pytest.mark.parametrize('encoding', ['', 'nonsense', '8UC3', '32FC1', '16UC1', 'nv12'])
def test_an_encoding_that_cannot_be_converted_is_refused(encoding):
    with pytest.raises(SpecVLAError, match='cannot be turned into RGB.*publish one of rgb8'):
        to_rgb(message(RGB, encoding))


@pytest.mark.parametrize('change, reason', [
    (dict(height=7), 'got step 24 and 144 bytes'),
    (dict(height=0), 'the image is empty: 8 x 0'),
    (dict(width=9), 'rows of at least 27 bytes'),
    (dict(step=23), 'got step 23'),
    (dict(step=2**31), '144 bytes'),
    (dict(data=array.array('B')), '0 bytes'),
])
def test_sizes_that_disagree_are_refused(change, reason):
    image = message(RGB, 'rgb8')
    for name, value in change.items():
        setattr(image, name, value)
    with pytest.raises(SpecVLAError, match=reason):
        to_rgb(image)


def test_cv_bridge_is_asked_where_it_is_installed(monkeypatch):
    class Bridge:
        def imgmsg_to_cv2(self, image, desired_encoding):
            return image.encoding, desired_encoding

    module = type(sys)('cv_bridge')
    module.CvBridge, module.CvBridgeError = Bridge, type('CvBridgeError', (TypeError,), {})
    monkeypatch.setitem(sys.modules, 'cv_bridge', module)
    assert to_rgb(message(RGB[..., 0], 'nv12')) == ('nv12', 'rgb8')
    np.testing.assert_array_equal(to_rgb(message(RGB, 'rgb8')), RGB)


def compressed(suffix, encoding='jpeg', pixels=RGB):
    _, data = cv2.imencode(suffix, pixels[..., ::-1])
    return CompressedImage(format=encoding, data=array.array('B', data.tobytes()))


def test_a_compressed_picture_without_loss_comes_back_as_it_was():
    message = compressed('.png', 'rgb8; png compressed bgr8')
    np.testing.assert_array_equal(compressed_to_rgb(message), RGB)


def test_a_jpeg_keeps_red_red():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    assert abs(compressed_to_rgb(compressed('.jpg', pixels=red)).astype(int) - red).max() < 8


@pytest.mark.parametrize('image, reason', [
    (compressed('.png', '16UC1; compressedDepth png'), 'holds depth'),
    (CompressedImage(format='jpeg'), '0 bytes of format .* is neither JPEG nor PNG'),
    (CompressedImage(format='jpeg', data=array.array('B', b'junk')), '4 bytes of format .* is'),
    (CompressedImage(data=compressed('.jpg', pixels=np.tile(RGB, (8, 8, 1))).data[:-500]),
     'no valid JPEG'),
    (CompressedImage(data=simplejpeg.encode_jpeg(RGB)[:100]), 'no valid JPEG'),  # in its header
])
def test_compressed_data_that_is_no_colour_picture_is_refused(image, reason):
    with pytest.raises(SpecVLAError, match=reason):
        compressed_to_rgb(image)
