"""
Strict acceptance is lossless on quantised weights too: they are the same in all passes.

As elsewhere here the arithmetic is float64, so that no tie decides; the weights are int8.
"""

import copy
from functools import lru_cache

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from specvla_ros.decoding.acceptance import Strict
from specvla_ros.decoding.drafters import DynamicTree
from specvla_ros.openvla.quantization import is_quantized, quantize

BUDGET = DynamicTree(top_k=3, depth=5, max_nodes=15)


@pytest.fixture(scope='session')
def quantized_lab(lab):
    """Make a lab whose model's Llama is quantised."""
    @lru_cache
    def quantized(seed):
        model = copy.deepcopy(lab(seed, 7, 1).model).float()
        quantize(model.language_model.layers, 'int8', torch.device('cpu'))
        return model.double()

    def make(seed, action_dim, chunk):
        it = lab(seed, action_dim, chunk)
        it.model = quantized(seed)
        return it

    return make


@given(model=st.integers(0, 3), chunk=st.integers(1, 3), seed=st.integers(0, 2**20))
@settings(max_examples=30, deadline=None)
def test_strict_is_ar_under_int8(model, chunk, seed, quantized_lab):
    it = quantized_lab(model, 7, chunk)
    assert is_quantized(it.model.language_model.layers[0].self_attn.q_proj.weight)
    expected = it.ar()
    for drafter in (it.guesser(seed), it.eagle(seed, BUDGET)):
        assert it.decode(drafter, Strict())[0] == expected


def test_int8_is_not_just_the_same_model(lab, quantized_lab):
    assert any(quantized_lab(seed, 7, 3).ar() != lab(seed, 7, 3).ar() for seed in range(4))
