"""JPEG and PNG data: colour pictures are read, whatever else is refused in one line."""
import io
import struct
import zlib

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest
import simplejpeg

from specvla_ros.errors import SpecVLAError
from specvla_ros.pictures import decode_picture

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def saved(image, kind='PNG', **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def chunk(kind, content):
    return (struct.pack('>I', len(content)) + kind + content
            + struct.pack('>I', zlib.crc32(kind + content)))


def png(width, height, depth, colours, rows, *more):
    return b''.join([
        b'\x89PNG\r\n\x1a\n',
        chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, colours, 0, 0, 0)), *more,
        chunk(b'IDAT', zlib.compress(rows)), chunk(b'IEND', b'')])


def test_alpha_is_ignored():
    alpha = np.dstack([RGB, np.full(RGB.shape[:2], 7, np.uint8)])
    np.testing.assert_array_equal(decode_picture(saved(Image.fromarray(alpha)), 'x'), RGB)


def test_a_palette_is_looked_up():
    image = Image.new('P', (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([2, 0, 1])
    assert decode_picture(saved(image), 'x').tolist() == [
        [[70, 80, 90], [10, 20, 30], [40, 50, 60]]]


def test_sixteen_bits_of_colour_become_eight():
    samples = np.array([[0, 0x1234, 0xffff], [257 * 9, 257 * 10, 257 * 11]], '>u2')
    data = png(2, 1, 16, 2, b'\0' + samples.tobytes())
    assert decode_picture(data, 'x').tolist() == [[[0, 0x12, 255], [9, 10, 11]]]


def test_an_orientation_in_the_metadata_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_picture(saved(Image.fromarray(RGB), 'JPEG', exif=exif), 'x').shape == RGB.shape


GREY = Image.fromarray(RGB[..., 0])
GREY_PALETTE = Image.new('P', (4, 4))
GREY_PALETTE.putpalette([i for i in range(256) for _ in range(3)])


@pytest.mark.parametrize('data, reason', [
    (saved(GREY), 'a grey PNG of 8 bits'),
    (saved(GREY.convert('I;16')), 'a grey PNG of 16 bits'),
    (saved(GREY.convert('1')), 'a grey PNG of 1 bits'),
    (saved(GREY.convert('LA')), 'a grey PNG of 8 bits'),
    (saved(GREY_PALETTE), 'palette has no colour'),
    (saved(GREY, 'JPEG'), 'a JPEG of one channel'),
    (saved(Image.new('CMYK', (8, 8)), 'JPEG'), 'colour space CMYK'),
    (saved(Image.fromarray(RGB), 'TIFF'), 'neither JPEG nor PNG'),
    (saved(Image.fromarray(RGB), 'GIF'), 'neither JPEG nor PNG'),
    (png(2**16, 2**16, 8, 2, b''), 'claims 65536 x 65536 pixels'),
    (png(0, 4, 8, 2, b''), 'claims 0 x 4 pixels'),
    (png(4, 4, 8, 2, b'short'), 'no valid PNG'),
    (b'\x89PNG\r\n\x1a\n' + chunk(b'IEND', b''), 'does not begin with its header'),
    (b'', '0 bytes, is neither'),
])
def test_what_is_no_colour_picture_is_refused(data, reason):
    with pytest.raises(SpecVLAError, match=reason) as raised:
        decode_picture(data, 'a.png')
    assert str(raised.value).startswith('a.png') and '\n' not in str(raised.value)


def test_damage_is_found_and_nothing_is_written_past_the_log(capfd):
    data = bytearray(saved(Image.fromarray(RGB)))
    data[60] ^= 1
    with pytest.raises(SpecVLAError, match='a checksum is wrong'):
        decode_picture(bytes(data), 'x')
    assert capfd.readouterr() == ('', '')


@given(data=st.data(), whole=st.sampled_from([
    saved(Image.fromarray(RGB)), simplejpeg.encode_jpeg(RGB), saved(GREY), saved(GREY, 'JPEG')]))
def test_damaged_data_is_a_picture_or_refused(data, whole):
    damaged = bytearray(whole)
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        picture = decode_picture(bytes(damaged[:cut]), 'x')
    except SpecVLAError as error:
        assert '\n' not in str(error)
        return
    assert picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8
