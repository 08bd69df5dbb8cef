"""
Camera frame → pixel values, as an OpenVLA saw its images in training.

The reference pipeline is TensorFlow's: JPEG round trip, Lanczos resize to a square; and where the
model was trained with random crops (LIBERO's fine-tunes), the centre crop of 90 % of the area,
resized back. Here, measured against it: JPEG at quality 95, 4:2:0, decoded with the
*fast* integer DCT is identical to the bit, and two float matrix products reproduce the
antialiased Lanczos without the clipping between the passes that puts Pillow off by up to 20 at
hard edges. The weights are sparse matrices: from 480 rows to 224 a dense product took eight times
as long. Of the 4 ms that a frame of 640 x 480 takes on one core, 1.7 to 2 are the JPEG round trip.
Source: shared facts on OpenVLA, "One prediction", step 2.
"""

from __future__ import annotations

import warnings

import cv2
import numpy as np
from numpy.typing import NDArray
import simplejpeg
import torch
from torch import Tensor

from .preprocessor import Normalisation

_JPEG_QUALITY = 95
_LANCZOS_RADIUS = 3.0


class ImageTransform:
    """
    A uint8 [H, W, 3] RGB frame of any size → float32 [6, size, size].

    The frame must already be turned the way the data set had it (for LIBERO mirrored
    left-right): that belongs to the data set's configuration. ``size`` is in pixels, ``device``
    is where the resize runs and the result lies; the JPEG round trip runs on the host.

    jpeg: whether frames take a JPEG round trip. crop_area: share of the frame that is kept, in the
    centre; 1 = all of it. The defaults are those of LIBERO's fine-tunes. normalisation: mean and
    deviation of the checkpoint.
    """

    def __init__(
        self,
        size: int = 224,
        device: torch.device | str = 'cpu',
        *,
        jpeg: bool = True,
        crop_area: float = 0.9,
        normalisation: Normalisation | None = None,
    ) -> None:
        self.size = size
        self.device = torch.device(device)
        self._jpeg = jpeg
        self._crop_weights = None
        if crop_area < 1:
            self._crop_weights = _sparse(crop_weights(size, crop_area)).to(self.device)
        self._lanczos: dict[int, Tensor] = {}  # by the length of the input axis
        colours = normalisation or Normalisation()
        mean, std = torch.tensor([[*colours.dino_mean, *colours.siglip_mean],
                                  [*colours.dino_std, *colours.siglip_std]])
        self._scale = (1 / (255 * std)).view(2, 3, 1, 1).to(self.device)
        self._shift = (-mean / std).view(2, 3, 1, 1).to(self.device)

    def __call__(self, image: NDArray[np.uint8]) -> Tensor:
        """
        Pixel values, float32 [6, size, size]: channels 0–2 for DINOv2, 3–5 for SigLIP.

        Raises ValueError if the image is not uint8 [H, W, 3].
        """
        return self.normalise(self.pixels(image))

    def pixels(self, image: NDArray[np.uint8]) -> Tensor:
        """Everything before the normalisation: uint8 [H, W, 3] → uint8 [size, size, 3]."""
        check_image(image)
        if not self._jpeg:
            return self._squeezed(image)
        # OpenCV, at its default 4:2:0; not simplejpeg: below quality 96 that one encodes with the
        # fast DCT.
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _, jpeg = cv2.imencode('.jpg', bgr, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
        return self.pixels_from_jpeg(jpeg.tobytes())

    def pixels_from_jpeg(self, data: bytes) -> Tensor:
        """
        Do the same for a frame stored as JPEG at quality 95, 4:2:0: the file is the round trip.

        Resize and crop commute with mirroring, so that a stored frame may be mirrored after.
        Raises ValueError if the data is no JPEG.
        """
        try:
            image = simplejpeg.decode_jpeg(data, colorspace='RGB', fastdct=True)
        except ValueError as error:
            raise ValueError(f'not a readable JPEG image: {error}') from error
        return self._squeezed(image)

    def _squeezed(self, image: NDArray[np.uint8]) -> Tensor:
        """Resize and crop a frame [H, W, 3] → [size, size, 3], both uint8."""
        frame = torch.from_numpy(np.ascontiguousarray(image)).to(self.device).float()
        resized = self._resize(frame)
        return resized.to(torch.uint8) if self._crop_weights is None else self._crop(resized)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Uint8 [..., size, size, 3] → float32 [..., 6, size, size]."""
        planes = pixels.to(self.device).movedim(-1, -3).contiguous().float().unsqueeze(-4)
        return torch.addcmul(self._shift, planes, self._scale).flatten(-4, -3)

    def _resize(self, image: Tensor) -> Tensor:
        """Lanczos: float32 [H, W, 3] → [size, size, 3], rounded once, after both axes."""
        height, width, _ = image.shape
        if (height, width) == (self.size, self.size):
            return image
        image = _weigh(self._weights(height), self._weights(width), image)
        return image.round_().clamp_(0, 255)

    def _weights(self, length: int) -> Tensor:
        """Lanczos weights for an input axis of this length, computed once."""
        if length not in self._lanczos:
            self._lanczos[length] = _sparse(lanczos_weights(length, self.size)).to(self.device)
        return self._lanczos[length]

    def _crop(self, image: Tensor) -> Tensor:
        """Centre crop, resized back bilinearly: float32 in 0 … 255 → uint8, [size, size, 3]."""
        assert self._crop_weights is not None
        # Columns first: the resize leaves them together, and the rows come out together.
        turned = _weigh(self._crop_weights, self._crop_weights, image.transpose(0, 1))
        image = turned.transpose(0, 1)
        # TensorFlow's convert_image_dtype: [0, 1] times 255.5, cut off, not rounded.
        return image.mul_(255.5 / 255).clamp_(0, 255).to(torch.uint8)


def check_image(image: NDArray[np.uint8]) -> None:
    """Raise ValueError if the image is not uint8 [H, W, 3]."""
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
        or not image.size
    ):
        found = (
            f'{image.dtype} {list(image.shape)}'
            if isinstance(image, np.ndarray)
            else type(image).__name__
        )
        raise ValueError(f'image is {found}, must be a uint8 array [H, W, 3], RGB')


def mirrored(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """
    Return a frame [H, W, 3] with left and right swapped.

    For 640 x 480 numpy takes 1.3 ms to copy pixel by pixel, OpenCV 0.05. Raises ValueError if the
    image is not uint8 [H, W, 3].
    """
    check_image(image)
    return np.asarray(cv2.flip(image, 1), np.uint8)


def _weigh(rows: Tensor, columns: Tensor, image: Tensor) -> Tensor:
    """
    Apply one matrix along each axis: [h, H], [w, W], [H, W, 3] → [h, w, 3].

    The result is a view of [w, h, 3].
    """
    image = _turned((rows @ image.flatten(1)).unflatten(1, image.shape[1:]))
    return (columns @ image.flatten(1)).unflatten(1, image.shape[1:]).transpose(0, 1)


def _turned(image: Tensor) -> Tensor:
    """Copy [h, w, 3] → [w, h, 3]; on a CPU OpenCV takes a third of torch's time for it."""
    if image.device.type == 'cpu':
        return torch.from_numpy(cv2.transpose(image.numpy()))
    return image.transpose(0, 1).contiguous()


def _sparse(weights: Tensor) -> Tensor:
    """Keep the nonzero weights only."""
    with warnings.catch_warnings():  # torch calls its sparse rows a beta feature, once
        warnings.simplefilter('ignore', UserWarning)
        return weights.to_sparse_csr()


def lanczos_weights(length: int, size: int) -> Tensor:
    """
    Weights [size, length] of an antialiased Lanczos-3 resize along one axis.

    Row i weighs the inputs around (i + 0.5)·length/size - 0.5 with the kernel stretched by the
    reduction (never shrunk when enlarging), normalised to sum 1 within the image.
    """
    ratio = length / size
    stretch = max(ratio, 1.0)
    centres = (np.arange(size) + 0.5) * ratio - 0.5
    offsets = (np.arange(length)[None] - centres[:, None]) / stretch
    kernel = np.sinc(offsets) * np.sinc(offsets / _LANCZOS_RADIUS)
    kernel[np.abs(offsets) >= _LANCZOS_RADIUS] = 0
    return torch.from_numpy(kernel / kernel.sum(axis=1, keepdims=True)).float()


def crop_weights(size: int, area: float = 0.9) -> Tensor:
    """
    Weights [size, size] of the centre crop of an area along one axis, bilinear.

    Position i is o·(size-1) + i·s·(size-1)/(size-1), s = √area, o = (1-s)/2: corners aligned.
    """
    side = area**0.5
    positions = (1 - side) / 2 * (size - 1) + np.arange(size) * side
    low = np.floor(positions).astype(np.int64)
    weights, rows = np.zeros((size, size)), np.arange(size)
    np.add.at(weights, (rows, low), low + 1 - positions)
    np.add.at(weights, (rows, np.minimum(low + 1, size - 1)), positions - low)
    return torch.from_numpy(weights).float()
