"""
Triton's kernels say what torch's operations say.

On a GPU, or anywhere with Triton's interpreter: `TRITON_INTERPRET=1 pytest ...` where triton is
installed.
"""

from importlib.util import find_spec
import os

import pytest
import torch

from specvla_ros.decoding.cache import StaticCache
from specvla_ros.openvla.fastest_operations import small_operations
from specvla_ros.openvla.small_operations import SmallOperations

CUDA = torch.cuda.is_available()
pytestmark = pytest.mark.skipif(
    not find_spec('triton') or not (CUDA or os.environ.get('TRITON_INTERPRET') == '1'),
    reason='needs triton, and a CUDA GPU or TRITON_INTERPRET=1')
DEVICE = torch.device('cuda:0' if CUDA else 'cpu')
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize('dtype', TOLERANCES)


@pytest.fixture
def kernels():
    from specvla_ros.openvla.triton_operations import TritonOperations
    return TritonOperations()


def drawn(*shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)


def assert_near(actual, expected):
    assert actual.dtype == expected.dtype and actual.shape == expected.shape
    near = TOLERANCES[expected.dtype]
    torch.testing.assert_close(actual, expected, atol=near, rtol=near)


@DTYPES
@pytest.mark.parametrize(('rows', 'width'), [(1, 4096), (5, 160), (3, 24)])
def test_norm(kernels, dtype, rows, width):
    x, weight = drawn(rows, width, dtype=dtype), drawn(width, dtype=dtype, seed=1)
    for rows_of_x in (x, torch.cat((x, x), -1)[:, :width]):
        assert_near(
            kernels.rms_norm(rows_of_x, weight, 1e-6),
            SmallOperations().rms_norm(x, weight, 1e-6))


@DTYPES
@pytest.mark.parametrize(('rows', 'width'), [(1, 11008), (9, 448), (2, 6)])
def test_gate(kernels, dtype, rows, width):
    both = drawn(rows, 2 * width, dtype=dtype)
    assert_near(kernels.gated(both), SmallOperations().gated(both))


@DTYPES
@pytest.mark.parametrize(('heads', 'kv_heads', 'dim'), [(4, 4, 128), (6, 2, 16), (5, 1, 10)])
def test_rotation_and_cache(kernels, dtype, heads, kv_heads, dim):
    rows, layer = 7, 1
    qkv = drawn(rows, heads + 2 * kv_heads, dim, dtype=dtype)
    angles = drawn(rows, 1, dim // 2, dtype=torch.float64, seed=1)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    turn = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
    slots = torch.tensor([3, 4, 31, 31, 5, 9, 0], device=DEVICE)
    found = []
    for operations in (kernels, SmallOperations()):
        cache, mine = StaticCache(2, kv_heads, dim, dtype, DEVICE), qkv.clone()
        keys, values = operations.rotate_and_put(mine, heads, *turn, cache.at(slots), layer)
        assert keys.data_ptr() == cache.storage[layer, 0].data_ptr()
        # Row 31 is the spare one: which of the rows written there stays doesn't matter.
        found.append((mine[:, :heads], keys[..., :31, :], values[..., :31, :]))
        assert not cache.storage[1 - layer].any()
    for actual, expected in zip(*found, strict=True):
        assert_near(actual, expected)


@pytest.mark.skipif(not CUDA, reason='no CUDA GPU')
def test_a_gpu_takes_them():
    assert type(small_operations(DEVICE)).__name__ == 'TritonOperations'


def test_a_cpu_takes_torchs():
    assert type(small_operations(torch.device('cpu'))) is SmallOperations
