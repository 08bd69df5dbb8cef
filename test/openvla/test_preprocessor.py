"""preprocessor_config.json: mean and deviation are followed, what isn't done is refused."""

import json

import numpy as np
import pytest
import torch

from specvla_ros.openvla.errors import CheckpointError
from specvla_ros.openvla.image_transform import ImageTransform
from specvla_ros.openvla.model import OpenVLA

SIZE = 24
# As OpenVLA 7B's, at the size of the small checkpoint.
PUBLISHED = {
    'auto_map': {'AutoImageProcessor': 'processing_prismatic.PrismaticImageProcessor'},
    'image_processor_type': 'PrismaticImageProcessor',
    'image_resize_strategy': 'resize-naive',
    'input_sizes': [[3, SIZE, SIZE]] * 2,
    'interpolations': ['bicubic', 'bicubic'],
    'means': [[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]],
    'processor_class': 'PrismaticProcessor',
    'stds': [[0.229, 0.224, 0.225], [0.5, 0.5, 0.5]],
    'tvf_crop_params': [{'output_size': [SIZE, SIZE]}] * 2,
    'tvf_do_letterbox': False,
    'tvf_letterbox_fill': None,
    'tvf_normalize_params': [
        {'inplace': False, 'mean': [0.484375, 0.455078125, 0.40625],
         'std': [0.228515625, 0.2236328125, 0.224609375]},
        {'inplace': False, 'mean': [0.5, 0.5, 0.5], 'std': [0.5, 0.5, 0.5]}],
    'tvf_resize_params': [
        {'antialias': True, 'interpolation': 3, 'max_size': None, 'size': [SIZE, SIZE]}] * 2,
    'use_fused_vision_backbone': True,
}
FRAME = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def load(published, content, name='preprocessor_config.json'):
    (published.folder / name).write_text(json.dumps(content))
    return OpenVLA.from_pretrained(published.folder)


def pixel_values(model):
    return model.image_transform(jpeg=False, crop_area=1.0)(FRAME).numpy()


def by_hand(means, stds):
    planes = FRAME.transpose(2, 0, 1) / 255
    return np.concatenate([
        (planes - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
        for mean, std in zip(means, stds, strict=True)])


def test_without_the_file_the_published_values_hold(published):
    model = OpenVLA.from_pretrained(published.folder)
    np.testing.assert_allclose(
        pixel_values(model), by_hand(PUBLISHED['means'], PUBLISHED['stds']), atol=1e-5)


def test_where_there_are_both_what_torchvision_is_called_with_holds(published):
    called = PUBLISHED['tvf_normalize_params']
    np.testing.assert_allclose(
        pixel_values(load(published, PUBLISHED)),
        by_hand([c['mean'] for c in called], [c['std'] for c in called]), atol=1e-5)


@pytest.mark.parametrize('name', ['preprocessor_config.json', 'processor_config.json'])
def test_other_means_and_deviations_are_followed_and_saved(published, tmp_path, name):
    means, stds = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], [[0.5, 0.6, 0.7], [0.2, 0.3, 0.4]]
    content = {'means': means, 'stds': stds}
    model = load(published, content if name.startswith('pre') else {'image_processor': content},
                 name)
    np.testing.assert_allclose(pixel_values(model), by_hand(means, stds), atol=1e-5)
    model.save_pretrained(tmp_path / 'saved')
    again = OpenVLA.from_pretrained(tmp_path / 'saved')
    assert again.normalisation == model.normalisation


@pytest.mark.parametrize(('change', 'message'), [
    ({'image_resize_strategy': 'letterbox'}, "must be 'resize-naive'"),
    ({'image_resize_strategy': 'resize-crop'}, "must be 'resize-naive'"),
    ({'tvf_do_letterbox': True}, 'tvf_do_letterbox is True, must be false'),
    ({'tvf_letterbox_fill': [127, 127, 127]}, 'tvf_letterbox_fill'),
    ({'image_processor_type': 'CLIPImageProcessor'}, 'image_processor_type'),
    ({'do_rescale': False}, "unknown key 'do_rescale'"),
    ({'interpolations': ['nearest', 'bicubic']}, 'interpolations'),
    ({'interpolations': 'bicubic'}, 'must be a list of 2'),
    ({'input_sizes': [[3, 32, 32]] * 2}, 'input_sizes'),
    ({'input_sizes': [[3, SIZE, SIZE]]}, 'must be a list of 2'),
    ({'tvf_crop_params': [{'output_size': [20, 20]}] * 2}, 'tvf_crop_params[0] output_size'),
    ({'tvf_resize_params': [{'size': SIZE + 8}] * 2}, 'tvf_resize_params[0] size is 32'),
    ({'tvf_resize_params': [{'antialias': False}] * 2}, 'antialias is False'),
    ({'tvf_resize_params': [{'interpolation': 0}] * 2}, 'interpolation is 0'),
    ({'means': [[0.485, 0.456], [0.5] * 3]}, 'must be three finite numbers'),
    ({'means': [[0.485, 0.456, '0.4'], [0.5] * 3]}, 'must be three finite numbers'),
    ({'means': [[0.5] * 3] * 2}, 'must be the same'),  # not what tvf_normalize_params has
    ({'stds': [[0.0, 0.1, 0.1], [0.5] * 3]}, 'must be three positive numbers'),
    ({'stds': [[float('nan')] * 3, [0.5] * 3]}, 'must be three positive numbers'),
    ({'use_fused_vision_backbone': False}, 'must be true by config.json'),
], ids=str)
def test_what_is_not_done_is_refused_in_one_line(published, change, message):
    with pytest.raises(CheckpointError) as caught:
        load(published, PUBLISHED | change)
    said = str(caught.value)
    assert message in said and '\n' not in said and 'preprocessor_config.json' in said


def test_a_whole_frame_is_neither_cropped_nor_compressed():
    transform = ImageTransform(SIZE, jpeg=False, crop_area=1.0)
    assert np.array_equal(transform.pixels(FRAME).numpy(), FRAME)
    larger = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    resized = transform._resize(torch.from_numpy(larger).float())
    assert np.array_equal(transform.pixels(larger).numpy(), resized.numpy())


def test_each_of_jpeg_and_crop_shows():
    rng = np.random.default_rng(2)
    frame = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    said = [ImageTransform(SIZE, jpeg=jpeg, crop_area=area).pixels(frame).float()
            for jpeg in (True, False) for area in (1.0, 0.9, 0.5)]
    for index, one in enumerate(said):
        for other in said[index + 1:]:
            assert (one - other).abs().mean() > 1


def test_a_crop_of_half_the_area_shows_its_middle():
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[10:54, 10:54] = 200  # 44 of 64: the crop's side is 64 · √0.5 = 45
    pixels = ImageTransform(64, jpeg=False, crop_area=0.5).pixels(frame)
    assert (pixels[2:62, 2:62] == 200).all()
    assert (ImageTransform(64, jpeg=False, crop_area=1.0).pixels(frame)[:10] == 0).all()
