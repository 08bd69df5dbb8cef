from hypothesis import given
from hypothesis import strategies as st
import torch

from specvla_ros.decoding.cache import StaticCache

LAYERS, HEADS, DIM = 2, 3, 4


@st.composite
def passes(draw):
    """Draw passes as (entries written, those of them that are committed)."""
    sizes = draw(st.lists(st.integers(1, 90), min_size=1, max_size=5))
    return [
        (size, sorted(draw(st.sets(st.integers(0, size - 1), max_size=size)))) for size in sizes
    ]


def new_cache():
    return StaticCache(LAYERS, HEADS, DIM, torch.float32, torch.device('cpu'), capacity=8)


@given(passes())
def test_it_holds_what_concatenation_would(passes):
    cache = new_cache()
    committed = torch.empty(LAYERS, 2, 1, HEADS, 0, DIM)
    for size, kept in passes:
        new = torch.randn(LAYERS, 2, 1, HEADS, size, DIM)
        for layer in range(LAYERS):
            key, value = cache.update(new[layer, 0], new[layer, 1], layer)
            assert torch.equal(key, torch.cat((committed[layer, 0], new[layer, 0]), dim=-2))
            assert torch.equal(value, torch.cat((committed[layer, 1], new[layer, 1]), dim=-2))
        cache.commit(kept)
        committed = torch.cat((committed, new[..., kept, :]), dim=-2)
        assert cache.length == committed.shape[-2]
    assert torch.equal(cache.storage[..., : cache.length, :], committed)


def test_one_action_after_another_needs_no_new_memory():
    cache = new_cache()
    for _ in range(3):
        cache.reset()
        for size in (200, 20, 20):
            for layer in range(LAYERS):
                cache.update(*torch.zeros(2, 1, HEADS, size, DIM), layer)
            cache.advance(2 if size == 20 else size)
        memory = cache.storage.data_ptr()
    assert cache.storage.data_ptr() == memory
    assert cache.capacity < 400
