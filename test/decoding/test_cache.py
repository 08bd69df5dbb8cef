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


def write(cache, new):
    """Write entries [layers, 2, 1, heads, S, d] behind the border."""
    size = new.shape[4]
    cache.reserve(cache.length + size)
    writer = cache.at(cache.length + torch.arange(size))
    return [put(writer, new[layer], layer) for layer in range(LAYERS)]


def put(writer, new, layer):
    """Write a layer's entries [2, 1, heads, S, d]."""
    return writer.put(new[:, 0].permute(2, 0, 1, 3), layer)


@given(passes())
def test_it_holds_what_concatenation_would(passes):
    cache = new_cache()
    committed = torch.empty(LAYERS, 2, 1, HEADS, 0, DIM)
    for size, kept in passes:
        new = torch.randn(LAYERS, 2, 1, HEADS, size, DIM)
        stop = cache.length + size
        for layer, (key, value) in enumerate(write(cache, new)):
            for held, was, came in zip((key, value), committed[layer], new[layer], strict=True):
                assert torch.equal(held[..., :stop, :], torch.cat((was, came), dim=-2))
        cache.commit(kept)
        committed = torch.cat((committed, new[..., kept, :]), dim=-2)
        assert cache.length == committed.shape[-2] <= cache.spare
    assert torch.equal(cache.storage[..., : cache.length, :], committed)


def test_what_is_written_to_the_spare_slot_is_never_committed():
    cache = new_cache()
    write(cache, torch.ones(LAYERS, 2, 1, HEADS, 7, DIM))
    put(cache.at(torch.tensor([cache.spare] * 2)), torch.full((2, 1, HEADS, 2, DIM), 9.0), 0)
    cache.advance(7)
    assert (cache.storage[..., : cache.length, :] == 1).all()
    assert cache.reserve(8) and cache.spare > 8


def test_one_action_after_another_needs_no_new_memory():
    cache = new_cache()
    for _ in range(3):
        cache.reset()
        for size in (200, 20, 20):
            write(cache, torch.zeros(LAYERS, 2, 1, HEADS, size, DIM))
            cache.advance(2 if size == 20 else size)
        memory = cache.storage.data_ptr()
    assert cache.storage.data_ptr() == memory
    assert cache.capacity < 300
