"""On a CPU each tensor operation costs time, however few rows there are: they are counted."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from specvla_ros.decoding.acceptance import Acceptance
from specvla_ros.decoding.cache import StaticCache
from specvla_ros.decoding.drafters import DraftContext, Jacobi
from specvla_ros.decoding.rules.bins import Bins
from specvla_ros.decoding.target import Target
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.openvla.fused_llama import FusedLayers
from specvla_ros.situation import UNKNOWN


class Counting(TorchDispatchMode):
    """Counts operations by name; views compute nothing."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not func.is_view:
            self.counts[func._schema.name.removeprefix('aten::')] += 1
        return func(*args, **kwargs or {})


def test_a_layer_of_a_single_token_pass(lab):
    llama = lab.new_model(0).language_model
    text, numbers = llama.config, torch.arange(1)
    cos, sin = (torch.rand(8, 1, text.head_dim, dtype=torch.float64) for _ in range(2))
    cache = StaticCache(
        2, text.num_key_value_heads, text.head_dim, torch.float64, torch.device('cpu'))
    counts = []
    for layers in (llama.layers[:1], llama.layers):
        fused = FusedLayers(layers, text, cos, sin)
        x = torch.rand(1, text.hidden_size, dtype=torch.float64)
        with torch.inference_mode(), Counting() as counting:
            fused(x, numbers, None, cache.at(numbers, 1))
        counts.append(counting.counts)
    norms = {'mul': 2 * 2, 'addmv': 2, 'rsqrt_': 2, 'mul_': 2}
    others = {'mm': 2, 'addmm_': 2, 'roll': 1, 'mul_': 1, 'addcmul_': 1, 'index_copy_': 1,
              'silu': 1, 'mul': 1}
    expected = Counter(norms) + Counter(others)
    found = counts[1] - counts[0]
    attention = {name for name in found if 'scaled_dot_product' in name}
    assert len(attention) == 1 and found[attention.pop()] == 1
    assert {name: found[name] for name in expected} == expected
    assert found.total() == expected.total() + 1


@pytest.mark.parametrize('n', [0, 6])
def test_acceptance_is_one_copy_and_what_the_target_said_goes_on_without_another(n, lab):
    it = lab(0, 7, 1)
    target, right = Target(it.model), it.ar()
    acceptance = Acceptance(Bins(9), None, it.space, target)
    wrong = [right[0], right[1], right[2] ^ 64, *right[3:6]]
    tree = TokenTree.chain(wrong[:n])
    with torch.inference_mode():
        verified = target.prefill(target.embed(*it.prompt), tree)
        terms, counting = acceptance.terms(UNKNOWN), Counting()
        context = DraftContext(target, it.space, None, [*right[:3]])
        drafter = Jacobi().drafter(None)
        drafter.remember(right)
        with counting:
            accepted = acceptance.accept(tree, verified, [], terms)
        assert counting.counts == {'cat': 1}
        context = context.after(tree, verified, accepted)
        drafter.propose(context)  # keeps the structure of its tree
        with counting:
            drafter.propose(context)
    assert len(accepted.nodes) == min(n, 2)
    assert counting.counts.total() == 1 + (n > 0)  # the tokens of the new tree, if there is one
