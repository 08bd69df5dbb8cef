"""
Strict acceptance is lossless on quantised weights too: they are the same in all passes.

`int8` is held to that in float64, as elsewhere here, so that no near-tie decides. The kernel of
`int4` on a CPU doesn't know float64: it gets float32, where a near-tie is rare, and few cases.
"""

import copy
from functools import lru_cache

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from specvla_ros.decoding.drafters import TreeBudget
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.openvla.quantization import is_quantized, quantize

BUDGET = TreeBudget(top_k=3, depth=5, max_nodes=15)


@pytest.fixture(scope='session')
def quantized_lab(lab):
    """Make a lab whose model's Llama is quantised."""
    @lru_cache
    def quantized(seed, kind, dtype):
        model = copy.deepcopy(lab(seed, 7, 1).model).float()
        quantize(model.language_model.layers, kind, torch.device('cpu'))
        return model.to(dtype)

    def make(seed, chunk, kind, dtype):
        it = lab(seed, 7, chunk)
        it.model = quantized(seed, kind, dtype)
        assert is_quantized(it.model.language_model.layers[0].self_attn.q_proj.weight)
        return it

    return make


@given(model=st.integers(0, 3), chunk=st.integers(1, 3), seed=st.integers(0, 2**20))
@settings(max_examples=30, deadline=None)
def test_strict_is_ar_under_int8(model, chunk, seed, quantized_lab):
    it = quantized_lab(model, chunk, 'int8', torch.float64)
    expected = it.ar()
    for drafter in (it.guesser(seed), it.eagle(seed, BUDGET)):
        assert it.decode(drafter, Strict())[0] == expected


@pytest.mark.parametrize('seed', range(4))
def test_strict_is_ar_under_int4(seed, quantized_lab):
    it = quantized_lab(seed, 2, 'int4', torch.float32)
    assert it.decode(it.guesser(seed), Strict())[0] == it.ar()


@pytest.mark.parametrize('kind, dtype', [('int8', torch.float64), ('int4', torch.float32)])
def test_they_are_other_weights_than_before(kind, dtype, lab, quantized_lab):
    assert any(quantized_lab(seed, 3, kind, dtype).ar() != lab(seed, 7, 3).ar()
               for seed in range(4))
