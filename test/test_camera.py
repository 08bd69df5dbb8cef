"""Camera messages of every kind become RGB; what can't is refused with a reason."""
import array
import importlib.abc
import sys

import cv2
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
import simplejpeg

from specvla_ros.camera import compressed_to_rgb, to_rgb
from specvla_ros.encodings import ENCODINGS
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


@pytest.mark.parametrize('is_bigendian', [0, 1])
@pytest.mark.parametrize('encoding, pixels', [
    ('rgb16', RGB), ('bgr16', RGB[..., ::-1]), ('rgba16', with_alpha(RGB)),
    ('bgra16', with_alpha(RGB[..., ::-1]))])
def test_sixteen_bits_of_colour_in_either_order_of_bytes(encoding, pixels, is_bigendian):
    image = message((pixels * np.uint16(257)).astype('>u2' if is_bigendian else '<u2'),
                    encoding, padding=6)
    image.is_bigendian = is_bigendian
    np.testing.assert_array_equal(to_rgb(image), RGB)


@pytest.mark.parametrize('encoding', ['mono8', 'mono16'])
def test_grey_is_no_colour_picture(encoding):
    """An infrared camera, packed YUV and depth come as mono8 and mono16 too."""
    with pytest.raises(SpecVLAError, match=f"'{encoding}' is grey, .* trained on colour"):
        to_rgb(message(RGB[..., 0].astype(np.uint16), encoding))


@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding, code', [
    ('yuv422', cv2.COLOR_YUV2RGB_UYVY), ('yuv422_yuy2', cv2.COLOR_YUV2RGB_YUYV),
    ('uyvy', cv2.COLOR_YUV2RGB_UYVY), ('yuyv', cv2.COLOR_YUV2RGB_YUYV)])
def test_packed_yuv(encoding, code, padding):
    packed = RGB[..., :2]
    np.testing.assert_array_equal(
        to_rgb(message(packed, encoding, padding)), cv2.cvtColor(packed, code))


@pytest.mark.parametrize('padding', [0, 4])
@pytest.mark.parametrize('encoding, order', [('nv12', (0, 1)), ('nv21', (1, 0))])
def test_yuv_whose_chroma_lies_below(encoding, order, padding):
    """Against OpenCV's own planar layout, I420: luma, then all U, then all V."""
    i420 = cv2.cvtColor(cv2.resize(RGB, (16, 12)), cv2.COLOR_RGB2YUV_I420)
    chroma = i420[12:].reshape(2, 6, 8)[list(order)]
    below = np.stack(chroma, axis=-1).reshape(6, 16)
    image = message(np.concatenate([i420[:12], below]), encoding, padding)
    image.height = 12
    np.testing.assert_array_equal(to_rgb(image), cv2.cvtColor(i420, cv2.COLOR_YUV2RGB_I420))


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize('colour', range(3))
def test_a_bayer_pattern(pattern, colour, bits):
    """A light of one colour comes out in that colour, whatever the filter's order."""
    mosaic = np.zeros((8, 8), np.uint8)
    for place, letter in enumerate(pattern):
        if letter == 'rgb'[colour]:
            mosaic[place // 2::2, place % 2::2] = 200
    if bits == 16:
        mosaic = mosaic * np.uint16(257)
    means = to_rgb(message(mosaic, f'bayer_{pattern}{bits}'))[2:-2, 2:-2].mean(axis=(0, 1))
    assert means[colour] > 90 and np.argmax(means) == colour
    assert np.delete(means, colour).max() < 50


def test_what_fill_image_writes_to_rgb_reads_without_a_copy():
    image = Image()
    fill_image(image, RGB[:, ::-1])
    read = to_rgb(image)
    np.testing.assert_array_equal(read, RGB[:, ::-1])
    assert np.shares_memory(read, np.frombuffer(image.data, np.uint8))


@pytest.mark.parametrize('encoding', [
    '', 'nonsense', '8UC3', '32FC1', '16UC1', 'nv24', 'RGB8', ' rgb8', 'rgb8; jpeg compressed'])
def test_an_encoding_that_cannot_be_converted_is_refused(encoding):
    with pytest.raises(SpecVLAError, match='cannot be turned into RGB.*publish one of rgb8'):
        to_rgb(message(RGB, encoding))


@pytest.mark.parametrize('change, reason', [
    (dict(height=7), 'got step 24 and 144 bytes'),
    (dict(height=0), 'the image is empty: 8 x 0'),
    (dict(width=9), 'rows of at least 27 bytes'),
    (dict(height=5), '144 bytes, where 120 belong'),
    (dict(step=1), 'got step 1'),
    (dict(step=0), 'got step 0'),
    (dict(width=2**32 - 1, height=2**32 - 1), 'got step 24'),
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


class Message:
    """An image whose fields may be of any type."""

    def __init__(self, **fields):
        self.height, self.width, self.encoding, self.is_bigendian = 6, 8, 'rgb8', 0
        self.step, self.data = 24, bytes(144)
        vars(self).update(fields)


@pytest.mark.parametrize('fields, reason', [
    (dict(data=[0] * 144), 'data of the image is list, must be bytes'),
    (dict(data=None), 'is NoneType'),
    (dict(data='x' * 144), 'is str'),
    (dict(data=np.zeros(144)), 'ndarray with items of 8 bytes'),
    (dict(data=array.array('H', [0] * 72)), 'array with items of 2 bytes'),
    (dict(data=np.zeros(288, np.uint8)[::2]), 'is ndarray'),
    (dict(data=np.zeros(0, np.uint8)), '0 bytes, where 144 belong'),
    (dict(height=-6), 'empty: 8 x -6'),
    (dict(width=8.0), 'width of the image is 8.0, must be a whole number'),
    (dict(step=None), 'step of the image is None'),
    (dict(encoding=None), 'encoding of the image is None'),
    (dict(encoding='bayer_rggb8', height=2, width=2, step=2, data=bytes(4)), 'at least 4 x 4'),
    (dict(encoding='yuyv', width=7), 'its width must be even'),
    (dict(encoding='nv21', height=5), 'its height must be even'),
    (dict(encoding='bayer_rggb8', width=48, height=36, step=1, data=bytes(36)),
     'rows of at least 48 bytes'),
])
def test_fields_that_are_none_of_an_image_are_refused(fields, reason):
    with pytest.raises(SpecVLAError, match=reason):
        to_rgb(Message(**fields))


@pytest.mark.parametrize('error', [
    TypeError('buffer is too small'), AttributeError('newbyteorder'), ImportError('numpy.core'),
    cv2.error('OpenCV: error:\n(-215) in function\n'), MemoryError(), RuntimeError('x\ny'),
    type('CvBridgeError', (TypeError,), {})('x')])
@pytest.mark.parametrize('encoding', ['bgr8', 'bayer_rggb8', 'yuv422', 'nv12', 'rgb16'])
def test_whatever_a_conversion_raises_is_one_line(monkeypatch, encoding, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(cv2, 'cvtColor', fail)
    monkeypatch.setattr(cv2, 'convertScaleAbs', fail)
    kind = ENCODINGS[encoding]
    step = kind.row_bytes(8)
    with pytest.raises(SpecVLAError, match=f'8 x 6 {encoding} image') as raised:
        to_rgb(Message(encoding=encoding, step=step, data=bytes(step * kind.n_rows(6))))
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize('error', [ImportError, AttributeError])
def test_an_opencv_that_cannot_be_loaded_is_one_line(monkeypatch, error):
    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == 'cv2':
                raise error('numpy.core.multiarray failed\nto import')

    monkeypatch.delitem(sys.modules, 'cv2')
    monkeypatch.setattr(sys, 'meta_path', [Finder(), *sys.meta_path])
    for read, image in ((to_rgb, message(RGB, 'bgr8')),
                        (compressed_to_rgb, compressed('.png', 'png'))):
        with pytest.raises(SpecVLAError, match='multiarray failed to import.*specvla doctor'):
            read(image)


@given(data=st.data(), encoding=st.sampled_from([*ENCODINGS, 'mono8', '16UC1', 'nv24', '']),
       height=st.integers(-1, 9), width=st.integers(-1, 9), is_bigendian=st.integers(0, 1))
def test_a_raw_image_is_a_picture_or_refused(data, encoding, height, width, is_bigendian):
    kind = ENCODINGS.get(encoding, ENCODINGS['rgb8'])
    row, rows = kind.row_bytes(max(width, 0)), kind.n_rows(max(height, 0))
    step = data.draw(st.sampled_from([row, row + 3, max(row - 1, 0), 0, 1, 2**32 - 1])
                     | st.integers(0, 80), label='step')
    n_bytes = data.draw(st.sampled_from([row * rows, step * rows if step < 100 else 0])
                        | st.integers(0, 500), label='bytes')
    image = Message(encoding=encoding, height=height, width=width, step=step,
                    is_bigendian=is_bigendian, data=bytes(n_bytes))
    try:
        rgb = to_rgb(image)
    except SpecVLAError as error:
        assert '\n' not in str(error)
        return
    assert rgb.shape == (height, width, 3) and rgb.dtype == np.uint8
    assert encoding in ENCODINGS and step >= row and n_bytes >= row * rows


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


GREY = np.tile(RGB[..., 0], (4, 4))


def grey(suffix, encoding, dtype=np.uint8):
    _, data = cv2.imencode(suffix, GREY.astype(dtype) * (257 if dtype == np.uint16 else 1))
    return CompressedImage(format=encoding, data=array.array('B', data.tobytes()))


@pytest.mark.parametrize('image, reason', [
    (grey('.png', '16UC1; png compressed ', np.uint16), 'depth or channels without colours'),
    (grey('.png', '16UC1; compressedDepth png', np.uint16), 'depth'),
    (grey('.png', '32FC1; compressedDepth rvl', np.uint16), 'depth'),
    (grey('.png', 'mono16; png compressed ', np.uint16), 'is grey'),
    (grey('.png', 'bayer_rggb8; png compressed '), 'a grey PNG of 8 bits'),
    (grey('.png', 'bayer_rggb16; png compressed ', np.uint16), 'a grey PNG of 16 bits'),
    (grey('.jpg', 'bayer_grbg8; jpeg compressed mono8'), 'is grey'),
    (grey('.jpg', 'mono8; jpeg compressed mono8'), 'is grey'),
    (grey('.jpg', 'yuv422; jpeg compressed mono8'), 'is grey'),
    (grey('.jpg', 'mono8; jpeg compressed'), 'is grey'),
    # What the format says and what the data is contradict each other.
    (grey('.jpg', 'rgb8; jpeg compressed bgr8'), 'a JPEG of one channel'),
    (grey('.png', 'rgb8; png compressed bgr8'), 'a grey PNG of 8 bits'),
    (grey('.jpg', 'jpeg'), 'a JPEG of one channel'),
    (grey('.png', 'png', np.uint16), 'a grey PNG of 16 bits'),
    (grey('.png', ''), 'a grey PNG'),
    (compressed('.png', '16UC1; png compressed '), 'depth'),
    (compressed('.jpg', 'mono8; jpeg compressed'), 'is grey'),
    (compressed('.png', 'MONO8;png'), 'is grey'),
    (compressed('.png', '8UC3; png compressed '), 'channels without colours'),
    (compressed('.tiff', 'rgb8; tiff compressed '), 'neither JPEG nor PNG'),
    (compressed('.bmp', 'rgb8; jpeg compressed bgr8'), 'neither JPEG nor PNG'),
])
def test_a_compressed_picture_without_colour_is_refused(image, reason):
    with pytest.raises(SpecVLAError, match=reason) as raised:
        compressed_to_rgb(image)
    assert repr(image.format) in str(raised.value)


@pytest.mark.parametrize('encoding', [
    'rgb8; png compressed bgr8', 'bgr8; jpeg compressed bgr8', 'bayer_rggb8; jpeg compressed bgr8',
    'yuv422_yuy2; jpeg compressed bgr8', 'nv21; png compressed bgr8', 'png', 'jpeg', ''])
def test_a_colour_picture_is_read_whatever_codec_and_origin_it_names(encoding):
    np.testing.assert_array_equal(compressed_to_rgb(compressed('.png', encoding)), RGB)


@pytest.mark.parametrize('image, reason', [
    (CompressedImage(format='jpeg'), '0 bytes, is neither JPEG nor PNG'),
    (CompressedImage(format='jpeg', data=array.array('B', b'junk')), "'jpeg', 4 bytes, is"),
    (CompressedImage(data=compressed('.jpg', pixels=np.tile(RGB, (8, 8, 1))).data[:-500]),
     'no valid JPEG'),
    (CompressedImage(data=simplejpeg.encode_jpeg(RGB)[:100]), 'no valid JPEG'),  # in its header
    (CompressedImage(data=compressed('.png').data[:-30]), 'PNG that is cut off after'),
    (Message(format='jpeg', data=[1, 2]), 'data of the image is list'),
    (Message(format=None, data=b''), 'format of the compressed image is None'),
])
def test_compressed_data_that_cannot_be_read_is_refused(image, reason):
    with pytest.raises(SpecVLAError, match=reason):
        compressed_to_rgb(image)
