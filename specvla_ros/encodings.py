"""
How pixels lie in a raw `sensor_msgs/msg/Image`, and how each encoding becomes RGB.

OpenCV converts every encoding, the same for live topics and bags. cv_bridge is not asked: it wraps
the same conversions of OpenCV, knows fewer encodings (no nv12, nv21, uyvy, yuyv), returns a wrong
picture for a wrong `step`, and crashes the process where it was built for another numpy. Names and
layouts: sensor_msgs/image_encodings.hpp of ROS 2. Scales: those of cv_bridge.
"""

from dataclasses import dataclass
import re

import numpy as np

from specvla_ros.errors import SpecVLAError
from specvla_ros.pictures import opencv, refuse_grey

# Bilinear interpolation of a mosaic needs neighbours; OpenCV leaves smaller pictures black.
_SMALLEST_MOSAIC = 4
_ALLOWED = ('rgb8, bgr8, rgba8, bgra8 (or 16), a Bayer pattern (8 or 16), uyvy, yuyv, nv12, nv21 '
            '(or their older names yuv422, yuv422_yuy2)')


@dataclass(frozen=True, slots=True)
class Encoding:
    """
    Layout of one encoding.

    samples: per pixel and row. bits: of a sample, 8 or 16. code: name of OpenCV's conversion to
    RGB, '' where it is RGB. planes: rows in the data per row of the picture, times two: 3 where
    4:2:0 chroma lies below. even: what must be even, as 'width'. smallest: side, pixels.
    """

    samples: int
    bits: int = 8
    code: str = ''
    planes: int = 2
    even: tuple[str, ...] = ()
    smallest: int = 1

    def row_bytes(self, width: int) -> int:
        """Bytes of a row without its padding."""
        return width * self.samples * self.bits // 8

    def n_rows(self, height: int) -> int:
        """Rows in the data of a picture that is `height` pixels high."""
        return height * self.planes // 2

    def check(self, height: int, width: int) -> None:
        """
        See whether there is such a picture.

        :raises SpecVLAError: it is too small for a mosaic, or odd where pixels share their chroma
        """
        sides = {'width': width, 'height': height}
        if odd := [name for name in self.even if sides[name] % 2]:
            raise SpecVLAError(f'its {odd[0]} must be even')
        if min(height, width) < self.smallest:
            raise SpecVLAError(f'must be at least {self.smallest} x {self.smallest} pixels')

    def rgb(self, rows: np.ndarray, is_bigendian: bool) -> np.ndarray:
        """
        Convert rows without padding, uint8 [n_rows, row_bytes], to uint8 [H, W, 3] RGB.

        A view of the rows where they are RGB already.
        """
        if self.bits == 16:
            samples = np.ascontiguousarray(rows).view('>u2' if is_bigendian else '<u2')
            rows = samples.astype(np.uint16, copy=False)
        if self.samples > 1:
            rows = rows.reshape(len(rows), -1, self.samples)
        if self.code:
            cv2 = opencv()
            rows = cv2.cvtColor(rows, getattr(cv2, f'COLOR_{self.code}'))
        # A camera of 10 or 12 bits that leaves the upper bits empty comes out dark, as from
        # cv_bridge: how many of them it fills is nowhere said.
        return opencv().convertScaleAbs(rows, alpha=255 / 65535) if self.bits == 16 else rows


_UYVY = Encoding(2, code='YUV2RGB_UYVY', even=('width',))
_YUYV = Encoding(2, code='YUV2RGB_YUYV', even=('width',))
_COLOURS = (('rgb', 3, ''), ('bgr', 3, 'BGR2RGB'), ('rgba', 4, 'RGBA2RGB'),
            ('bgra', 4, 'BGRA2RGB'))
# OpenCV names a pattern by its second row, from the second column on.
_PATTERNS = (('rggb', 'BG'), ('bggr', 'RG'), ('gbrg', 'GR'), ('grbg', 'GB'))
ENCODINGS: dict[str, Encoding] = {
    **{f'{name}{bits}': Encoding(samples, bits, code)
       for name, samples, code in _COLOURS for bits in (8, 16)},
    **{f'bayer_{name}{bits}': Encoding(1, bits, f'Bayer{code}2RGB', smallest=_SMALLEST_MOSAIC)
       for name, code in _PATTERNS for bits in (8, 16)},
    'uyvy': _UYVY, 'yuv422': _UYVY,
    'yuyv': _YUYV, 'yuv422_yuy2': _YUYV,
    'nv12': Encoding(1, code='YUV2RGB_NV12', planes=3, even=('width', 'height')),
    'nv21': Encoding(1, code='YUV2RGB_NV21', planes=3, even=('width', 'height')),
}


def find_encoding(name: str) -> Encoding:
    """
    Return the encoding of a raw image.

    :raises SpecVLAError: it is grey, depth, of unnamed channels, or unknown; with what to do
    """
    if not isinstance(name, str):
        raise SpecVLAError(f'the encoding of the image is {name!r}, must be a text')
    if name in ENCODINGS:
        return ENCODINGS[name]
    if name in ('mono8', 'mono16'):
        raise refuse_grey(f'image encoding {name!r} is grey')
    why = 'it is unknown here'
    if not name or re.fullmatch(r'\d+[USF](C\d*)?', name):
        why = "it doesn't say which channel is which colour: depth has such encodings"
    raise SpecVLAError(f'image encoding {name!r} cannot be turned into RGB ({why}); publish one '
                       f'of {_ALLOWED}')
