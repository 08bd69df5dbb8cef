"""
JPEG and PNG data → RGB, for cameras, bags and folders of frames alike.

Only colour pictures are read. Depth, a Bayer mosaic, packed YUV and infrared come as grey pictures
when they are compressed, and a decoder makes of each a frame that looks right to a program. So the
header is read first: what has one channel is refused.
"""

import struct
from types import ModuleType
import zlib

import numpy as np

from specvla_ros.errors import one_line, SpecVLAError

MOST_PIXELS = 2**26  # 8192 x 8192: a file of 1 kB can claim any size
_JPEG = b'\xff\xd8'  # how every JPEG begins, one that was cut off too
_PNG = b'\x89PNG\r\n\x1a\n'
_JPEG_COLOURS = ('YCbCr', 'RGB')  # not Gray, CMYK, YCCK
# Colour types of PNG (ISO/IEC 15948, table 11.1).
_GREY, _COLOUR, _PALETTE, _GREY_ALPHA, _COLOUR_ALPHA = 0, 2, 3, 4, 6


def decode_picture(data: bytes, name: str) -> np.ndarray:
    """
    Return a JPEG or PNG colour picture as uint8 [H, W, 3] RGB, top row first.

    An orientation in the metadata and an alpha channel are ignored; 16 bits a channel become 8.

    :param name: of the picture, for messages
    :raises SpecVLAError: it is neither JPEG nor PNG, damaged, larger than `MOST_PIXELS`, or no
        colour picture: grey, with or without alpha or palette, or CMYK
    """
    try:
        if data.startswith(_JPEG):
            return _decode_jpeg(data)
        if data.startswith(_PNG):
            return _decode_png(data)
    except SpecVLAError as error:
        raise SpecVLAError(f'{name} {error}') from error
    raise SpecVLAError(f'{name}, {len(data)} bytes, is neither JPEG nor PNG')


def opencv() -> ModuleType:
    """
    Return the module `cv2`.

    :raises SpecVLAError: it can't be loaded, as where it was built for another numpy
    """
    try:
        import cv2
    except Exception as error:  # ImportError, or AttributeError of a numpy that is too new
        raise SpecVLAError(
            f"OpenCV can't be loaded ({one_line(error)}): see `specvla doctor`") from error
    return cv2


def refuse_grey(what: str) -> SpecVLAError:
    """Return the refusal of a grey picture: one text for live topics, bags and files."""
    return SpecVLAError(
        f'{what}, and the policy was trained on colour: give colour pictures (a policy that was '
        'trained on grey wants RGB with three equal channels)')


def _decode_jpeg(data: bytes) -> np.ndarray:
    import simplejpeg
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(height, width)
        if colours == 'Gray':
            raise refuse_grey('is grey, a JPEG of one channel')
        if colours not in _JPEG_COLOURS:
            raise SpecVLAError(f'is a JPEG of colour space {colours}, must be YCbCr or RGB')
        return simplejpeg.decode_jpeg(data, colorspace='RGB')
    except SpecVLAError:
        raise
    except Exception as error:  # whatever a decoder makes of damaged data
        raise SpecVLAError(f'is no valid JPEG: {one_line(error)}') from error


def _decode_png(data: bytes) -> np.ndarray:
    depth, colours = _check_png(data)
    if colours in (_GREY, _GREY_ALPHA):
        raise refuse_grey(f'is a grey PNG of {depth} bits, as depth and Bayer mosaics are')
    cv2 = opencv()
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if bgr is None:
            raise SpecVLAError('is no valid PNG')
        if bgr.dtype == np.uint16:
            bgr = cv2.convertScaleAbs(bgr, alpha=255 / 65535)
        rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    except cv2.error as error:
        raise SpecVLAError(f'is no valid PNG: {one_line(error)}') from error
    if colours == _PALETTE and (rgb == rgb[..., :1]).all():
        raise refuse_grey('is a PNG whose palette has no colour')
    return rgb


def _check_png(data: bytes) -> tuple[int, int]:
    """
    Walk over all chunks, and return the bits a sample has and the colour type.

    libpng would write of damage to the standard error stream, once an image, past every log.
    """
    place, depth, colours = len(_PNG), 0, -1
    kind = b''
    while kind != b'IEND':
        head = data[place:place + 8]
        length = struct.unpack('>I', head[:4])[0] if len(head) == 8 else 0
        kind, end = head[4:], place + 8 + length
        if len(head) < 8 or end + 4 > len(data):
            raise SpecVLAError(f'is a PNG that is cut off after {len(data)} bytes')
        if zlib.crc32(data[place + 4:end]) != struct.unpack('>I', data[end:end + 4])[0]:
            raise SpecVLAError(f'is a damaged PNG: a checksum is wrong at byte {place}')
        if colours < 0:
            if kind != b'IHDR' or length != 13:
                raise SpecVLAError('is no valid PNG: it does not begin with its header')
            width, height, depth, colours = struct.unpack('>IIBB', data[place + 8:place + 18])
            _check_size(height, width)
        place = end + 4
    return depth, colours


def _check_size(height: int, width: int) -> None:
    if not 0 < height * width <= MOST_PIXELS:
        raise SpecVLAError(f'claims {width} x {height} pixels, must be 1 to {MOST_PIXELS} in all')
