import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from specvla_ros.openvla.action_tokenizer import ActionStatistics, ActionTokenizer
from specvla_ros.openvla.errors import CheckpointError

LLAMA = ActionTokenizer(vocab_size=32000)
IDS = np.arange(31744, 32000)


def test_action_ids_are_the_last_256_before_the_padding():
    assert (LLAMA.first_id, LLAMA.last_id) == (31744, 31999)
    np.testing.assert_array_equal(LLAMA.is_action(np.array([31743, 31744, 31999, 32000])),
                                  [False, True, True, False])


@pytest.mark.parametrize(
    ('value', 'token'),
    [(-1.0, 31999), (-0.999, 31999), (0.0, 31872), (0.9999, 31745), (1.0, 31744),
     (-7.0, 31999), (7.0, 31744)],
)
def test_known_ids_of_values(value, token):
    assert LLAMA.encode(value) == token


def test_known_values_of_ids():
    np.testing.assert_allclose(
        LLAMA.decode([31999, 31998, 31872, 31745]),
        [-254 / 255, -252 / 255, 0.0, 254 / 255],
        atol=1e-7,
    )


def test_the_two_lowest_ids_mean_the_same_value():
    low, next_to_low = LLAMA.decode([31744, 31745])
    assert low == next_to_low == np.float32(254 / 255)


def test_decoding_is_the_midpoint_of_255_bins():
    expected = [(2 * min(31999 - i, 254) + 1) / 255 - 1 for i in IDS.tolist()]
    np.testing.assert_allclose(LLAMA.decode(IDS), expected, atol=1e-6)


def test_encoding_what_was_decoded_gives_the_id_back_except_the_lowest():
    np.testing.assert_array_equal(LLAMA.encode(LLAMA.decode(IDS)), np.maximum(IDS, 31745))


@given(st.floats(-1, 1))
def test_a_value_is_off_by_at_most_half_a_bin(value):
    assert abs(float(LLAMA.decode(LLAMA.encode(value))) - value) <= 1 / 255 + 1e-6


@given(st.floats(allow_nan=False, allow_infinity=True))
def test_every_number_becomes_an_action_id(value):
    assert LLAMA.is_action(LLAMA.encode(value))


def test_nan_is_refused():
    with pytest.raises(ValueError, match='NaN'):
        LLAMA.encode([0.0, float('nan')])


def test_bins_count_upwards_with_the_value_and_agree_on_all_kinds_of_ids():
    bins = LLAMA.bins(IDS)
    assert (bins[0], bins[1], bins[-1]) == (254, 254, 0)
    assert LLAMA.bins(torch.from_numpy(IDS)).tolist() == bins.tolist()
    assert [LLAMA.bins(i) for i in IDS.tolist()] == bins.tolist()
    assert LLAMA.is_action(torch.tensor([31743, 31744])).tolist() == [False, True]


def test_ids_that_are_no_action_decode_to_the_nearest():
    np.testing.assert_array_equal(LLAMA.decode([1, 32063]), LLAMA.decode([31744, 31999]))


def test_shapes_and_types():
    ids = LLAMA.encode(np.zeros((3, 7)))
    assert (ids.shape, ids.dtype) == ((3, 7), np.int64)
    assert LLAMA.decode(ids).dtype == np.float32


STATISTICS = ActionStatistics.from_dict(
    {'q01': [-0.5, 0.0, 0.25, 0.0], 'q99': [0.5, 2.0, 0.25, 1.0],
     'mask': [True, True, True, False]},
    'key',
)


def test_unnormalise_is_the_published_formula_where_masked():
    values = STATISTICS.unnormalize([[-1, 0, 1, 0.3], [1, 0.5, -1, 1.0]])
    np.testing.assert_allclose(values, [[-0.5, 1.0, 0.25, 0.3], [0.5, 1.5, 0.25, 1.0]])
    assert values.dtype == np.float32


def test_normalise_inverts_and_clips():
    np.testing.assert_allclose(
        STATISTICS.normalize([[0.25, 0.5, 0.25, 0.3], [9, -9, 0.7, 1]]),
        [[0.5, -0.5, 0.0, 0.3], [1, -1, 0, 1]],
    )


def test_a_dimension_that_never_moves_normalises_to_zero():
    assert not math.isnan(STATISTICS.normalize([0, 0, 3, 0])[2])
    assert STATISTICS.normalize([0, 0, 3, 0])[2] == 0


@pytest.mark.parametrize(
    'broken',
    [{'q01': [0.0]}, {'q01': [0.0], 'q99': [1.0, 2.0]}, {'q01': ['x'], 'q99': [1.0]},
     {'q01': [], 'q99': []}, {'q01': [0.0], 'q99': [1.0], 'mask': [True, False]}],
)
def test_unusable_statistics_name_their_key(broken):
    with pytest.raises(CheckpointError, match="'libero_goal'"):
        ActionStatistics.from_dict(broken, 'libero_goal')


def test_without_a_mask_every_dimension_is_scaled():
    assert ActionStatistics.from_dict({'q01': [0.0], 'q99': [4.0]}, 'key').unnormalize([0.0]) == 2
