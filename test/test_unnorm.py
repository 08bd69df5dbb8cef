"""Every file of `config/unnorm/`: it loads, shares no key, and means what is known."""
from collections import Counter

import numpy as np
import pytest

from specvla_ros.actions import to_si
from specvla_ros.config_folder import config_folder
from specvla_ros.data_sets import ImagePreparation, load_dataset
from specvla_ros.typed_files import read_yaml

FILES = sorted((config_folder() / 'unnorm').glob('*.yaml'))
# per file: period [s], frame, mirrored; and one action in its units, with what it is in SI
QUARTER = np.pi / 2
THIRD = 2 * np.pi / 3 / np.sqrt(3)  # of a turn about (1, 1, 1)
KNOWN = {
    'bridge_orig': (
        1 / 5, 'wx250s/base_link', False,
        [0.01, -0.02, 0.03, QUARTER, 0, QUARTER, 1], [0.01, -0.02, 0.03, *[THIRD] * 3, 1]),
    'fractal20220817_data': (
        1 / 3, 'base_link', False,
        [0.01, -0.02, 0.03, QUARTER, 0, QUARTER, 0], [0.01, -0.02, 0.03, *[THIRD] * 3, 0]),
    'libero': (
        1 / 20, 'panda_link0', True,
        [1, -0.5, 0, 1, -0.5, 0.2, 1], [0.05, -0.025, 0, 0.5, -0.25, 0.1, 1]),
}


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_a_file_means_what_is_known(path):
    period, frame, mirrored, values, si = KNOWN[path.stem]
    for key in [path.stem, *read_yaml(path).get('keys', [])]:
        dataset = load_dataset(key)
        assert dataset.period_s == pytest.approx(period)
        assert (dataset.frame_id, dataset.mirror_image) == (frame, mirrored)
        np.testing.assert_allclose(
            to_si(np.array([values], np.float32), dataset), [si], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(('key', 'crop_area'), [
    ('libero_object', 0.9), ('libero_10_no_noops', 0.9), ('bridge_orig', 1.0),
    ('fractal20220817_data', 1.0)])
def test_only_fine_tunes_with_image_augmentation_crop(key, crop_area):
    assert load_dataset(key).image == ImagePreparation(jpeg=True, crop_area=crop_area)


def test_no_two_files_are_for_the_same_key():
    keys = Counter(key for path in FILES for key in [path.stem, *read_yaml(path).get('keys', [])])
    assert [key for key, count in keys.items() if count > 1] == []


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_a_file_says_where_its_numbers_are_from(path):
    assert '# source: ' in path.read_text()
