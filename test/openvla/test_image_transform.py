import io
import math

import cv2
import numpy as np
from PIL import Image
import pytest
import simplejpeg
import torch

from specvla_ros.openvla.image_transform import ImageTransform, lanczos_weights, mirrored


@pytest.fixture(scope='module')
def frame():
    """A 256 px image with colour, edges and detail at every scale."""
    rng = np.random.default_rng(0)
    layers = [
        np.array(
            Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize(
                (256, 256), Image.BICUBIC
            ),
            dtype=float,
        )
        for n in (4, 16, 64)
    ]
    image = np.mean(layers, axis=0)
    image[60:120, 80:160] = (250, 10, 30)
    return image.astype(np.uint8)


def lanczos_reference(values, size):
    """One axis, straight from the definition: sum of kernel times input, per output."""
    values = np.asarray(values, dtype=float)
    ratio = len(values) / size
    result = []
    for i in range(size):
        x = (np.arange(len(values)) - ((i + 0.5) * ratio - 0.5)) / max(ratio, 1)
        x[x == 0] = 1e-12
        weights = 3 * np.sin(np.pi * x) * np.sin(np.pi * x / 3) / (np.pi * x) ** 2
        weights[np.abs(x) >= 3] = 0
        result.append((weights * values).sum() / weights.sum())
    return np.array(result)


def crop_reference(plane):
    """TensorFlow's crop_and_resize with corners aligned, one pixel at a time, on [S, S]."""
    size = len(plane)
    side = math.sqrt(0.9)
    offset = (1 - side) / 2
    result = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            y = offset * (size - 1) + i * side * (size - 1) / (size - 1)
            x = offset * (size - 1) + j * side * (size - 1) / (size - 1)
            top, left = int(y), int(x)
            dy, dx = y - top, x - left
            result[i, j] = (
                plane[top, left] * (1 - dy) * (1 - dx)
                + plane[top, left + 1] * (1 - dy) * dx
                + plane[top + 1, left] * dy * (1 - dx)
                + plane[top + 1, left + 1] * dy * dx
            )
    return result


@pytest.mark.parametrize(('length', 'size'), [(256, 224), (256, 168), (48, 64), (30, 30)])
def test_lanczos_weights_are_the_definition(length, size):
    weights = lanczos_weights(length, size).double().numpy()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    values = np.random.default_rng(1).uniform(0, 255, length)
    np.testing.assert_allclose(weights @ values, lanczos_reference(values, size), atol=1e-3)


@pytest.mark.parametrize('size', [224, 168])
def test_resize_agrees_with_pillow(frame, size):
    transform = ImageTransform(size)
    ours = transform._resize(torch.from_numpy(frame).float())
    pillow = np.array(Image.fromarray(frame).resize((size, size), Image.LANCZOS), dtype=int)
    difference = np.abs(ours.numpy() - pillow)
    # Pillow clips between its two passes and rounds its weights to 1/2^22.
    assert difference.mean() < 0.25
    assert np.quantile(difference, 0.999) <= 1


def test_every_step_against_plain_formulas(frame):
    size = 40
    jpeg = cv2.imencode('.jpg', frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    decoded = simplejpeg.decode_jpeg(jpeg, fastdct=True).astype(float)
    rows = np.apply_along_axis(lanczos_reference, 0, decoded, size)
    resized = np.clip(np.round(np.apply_along_axis(lanczos_reference, 1, rows, size)), 0, 255)
    cropped = np.stack([crop_reference(resized[..., c]) for c in range(3)], axis=-1)
    expected = np.clip(np.trunc(cropped / 255 * 255.5), 0, 255)

    pixels = ImageTransform(size).pixels(frame)
    assert (pixels.shape, pixels.dtype) == ((size, size, 3), torch.uint8)
    difference = np.abs(pixels.numpy() - expected)
    # float32 against float64 at the edge of truncation.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001

    scaled = expected.transpose(2, 0, 1) / 255
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    dino = (scaled - mean[:, None, None]) / std[:, None, None]
    siglip = (scaled - 0.5) / 0.5
    values = ImageTransform(size)(frame)
    assert (values.shape, values.dtype) == ((6, size, size), torch.float32)
    np.testing.assert_allclose(values.numpy(), np.concatenate([dino, siglip]), atol=0.02)
    np.testing.assert_allclose(values.mean(), np.concatenate([dino, siglip]).mean(), atol=1e-4)


def test_the_round_trip_is_the_reference_jpeg_to_the_bit(frame):
    transform = ImageTransform(256)
    jpeg = io.BytesIO()
    Image.fromarray(frame).save(jpeg, 'JPEG', quality=95, subsampling='4:2:0')
    assert torch.equal(transform.pixels(frame), transform.pixels_from_jpeg(jpeg.getvalue()))


@pytest.mark.parametrize('grey', [0, 1, 100, 127, 254, 255])
def test_a_plain_image_keeps_its_value(grey):
    image = np.full((256, 256, 3), grey, np.uint8)
    assert (ImageTransform(224).pixels(image) == grey).all()


def test_an_image_of_the_right_size_is_not_resampled(frame):
    image = torch.from_numpy(frame).float()
    assert torch.equal(ImageTransform(256)._resize(image), image)


def test_resize_and_crop_commute_with_mirroring(frame):
    transform = ImageTransform(168)
    image = torch.from_numpy(frame).float()
    mirrored = transform._crop(transform._resize(image.flip(1))).int()
    difference = (mirrored - transform._crop(transform._resize(image)).flip(1).int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() < 0.01


def test_mirrored_swaps_left_and_right_of_any_view(frame):
    for view in (frame, frame[::-1], frame[:, 20:200:3]):
        assert np.array_equal(mirrored(view), view[:, ::-1])
    with pytest.raises(ValueError, match=r'image is float32 \[4, 4, 3\]'):
        mirrored(np.zeros((4, 4, 3), np.float32))


def test_batches_normalise_as_single_images(frame):
    transform = ImageTransform(56)
    pixels = torch.stack([transform.pixels(frame), transform.pixels(frame[::-1])])
    expected = torch.stack([transform(frame), transform(frame[::-1])])
    assert torch.equal(transform.normalise(pixels), expected)


def test_frames_of_any_shape_are_squeezed_to_the_square():
    image = np.zeros((120, 300, 3), np.uint8)
    image[:, 150:] = 200
    pixels = ImageTransform(64).pixels(image)
    assert pixels.shape == (64, 64, 3)
    assert pixels[:, :28].max() < 20
    assert pixels[:, 36:].min() > 180


@pytest.mark.parametrize(
    ('image', 'found'),
    [
        (np.zeros((8, 8, 3), np.float32), 'float32'),
        (np.zeros((8, 8), np.uint8), r'\[8, 8\]'),
        (np.zeros((8, 8, 4), np.uint8), r'\[8, 8, 4\]'),
        (np.zeros((0, 8, 3), np.uint8), r'\[0, 8, 3\]'),
        ([[1]], 'list'),
    ],
)
def test_what_is_no_image_is_refused(image, found):
    with pytest.raises(ValueError, match=f'image is .*{found}.*must be a uint8 array'):
        ImageTransform(56)(image)


def test_a_damaged_jpeg_is_refused():
    with pytest.raises(ValueError, match='not a readable JPEG'):
        ImageTransform(56).pixels_from_jpeg(b'no image')
