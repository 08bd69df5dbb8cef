"""Bytes and operations of a pass: a tiny model counted by hand, the 7B against known numbers."""

import pytest
import torch

from specvla_ros.benchmark.latency.cost import PassWork, total
from specvla_ros.benchmark.latency.projection import read_shape
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.openvla.quantization import stored_bytes

LAYERS = 2 * (4 * 32 * 32 + 3 * 32 * 64)  # weights of matrices: attention and MLP, twice
NORMS = 2 * 2 * 32 + 32
KEYS_AND_VALUES = 2 * 2 * 32 * 4  # bytes of an entry: layers, key and value, width, float32
PAIR = 2 * 2 * 2 * 32  # operations: layers, q·k and p·v, multiply and add, width


@pytest.fixture(scope='module')
def tiny(tiny_checkpoint):
    return OpenVLA.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope='module')
def published():
    """The 7B without its memory."""
    with torch.device('meta'):
        return OpenVLA(read_shape('7b')).to(torch.bfloat16)


def test_a_pass_of_one_token_counted_by_hand(tiny):
    work = PassWork(tiny, head_rows=256).language(rows=1, cached=40, read=1)
    assert work.n_bytes == 4 * (LAYERS + NORMS + 256 * 32) + 41 * KEYS_AND_VALUES
    assert work.flops == 2 * LAYERS + 41 * PAIR + 2 * 256 * 32


def test_a_prefill_sees_each_token_and_those_before_it(tiny):
    work = PassWork(tiny, head_rows=256).language(rows=5, cached=0, read=1)
    assert work.flops == 5 * 2 * LAYERS + (1 + 2 + 3 + 4 + 5) * PAIR + 2 * 256 * 32


def test_vision_counted_by_hand(tiny):
    block, cut, patches = 4 * 16 * 16 + 2 * 16 * 32, 16 * 3 * 14 * 14, 4
    towers = sum(2 * tokens * block + 4 * tokens * tokens * 16 + 2 * patches * cut
                 for tokens in (patches + 5, patches))
    projector = 2 * patches * (32 * 128 + 128 * 32 + 32 * 32)
    work = PassWork(tiny, head_rows=256).vision()
    assert work.flops == towers + projector
    assert work.n_bytes == stored_bytes([*tiny.vision.parameters(),
                                         *tiny.projector.parameters()])


def test_an_action_is_the_passes_of_its_trace(tiny):
    cost = PassWork(tiny, head_rows=256)
    # 20 rows of prompt and 3 guesses of which 2 stay: 3 tokens known. Then 4 drafts, 1 stays.
    passes = cost.action(20, [(3, 2), (4, 1), (0, 0)])
    assert passes == [
        ('vision', cost.vision()),
        ('prefill', cost.language(23, 0, 4)),
        ('verify', cost.language(5, 22, 5)),
        ('verify', cost.language(1, 24, 1))]


def test_the_7b_weighs_what_is_published(published):
    assert stored_bytes(published.parameters()) == pytest.approx(15.2e9, rel=0.02)


def test_a_token_of_the_7b_costs_two_operations_per_weight(published):
    cost = PassWork(published, head_rows=published.lm_head.weight.shape[0])
    work = cost.language(rows=1, cached=280, read=1)
    llama = 6.74e9 - 32064 * 4096  # Llama-2 7B; embeddings are looked up, not multiplied
    assert work.flops == pytest.approx(2 * llama, rel=0.02)
    assert work.n_bytes == pytest.approx(2 * llama, rel=0.02)  # bfloat16


def test_the_prefill_of_the_7b_is_about_four_teraflop(published):
    cost = PassWork(published, head_rows=256)
    whole = total(work for stage, work in cost.action(280, [(0, 0)]))
    assert whole.flops == pytest.approx(4e12, rel=0.1)
