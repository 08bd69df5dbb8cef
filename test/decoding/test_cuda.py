"""On a GPU: graphs say what plain calls say; what waits and allocates is counted."""

import gc
import warnings

import pytest
import torch

from specvla_ros.decoding.drafters import EagleDrafter, NoDrafter, TreeBudget
from specvla_ros.decoding.rules.bins import Bins
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.graphs import CudaGraphs, Runner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA GPU')


@pytest.fixture
def it(lab):
    """Return a lab whose model, in float64, and prompts are on the GPU."""
    made = lab(0, 7, 1)
    made.model = lab.new_model(0).cuda()
    made.prompt, made.longer_prompt = (
        tuple(part.cuda() for part in prompt) for prompt in (made.prompt, made.longer_prompt)
    )
    return made


def eagle(it):
    """Return a drafter on the GPU; its cache is made where its weights are."""
    drafter = it.eagle(3, TreeBudget(3, 4, 12))
    return EagleDrafter(drafter.head.cuda(), drafter.budget)


@pytest.mark.parametrize('rule', [Strict(), Bins(9)])
@pytest.mark.parametrize('make', [eagle, lambda it: it.guesser(5), lambda it: NoDrafter()])
def test_graphs_say_what_plain_calls_say(it, make, rule):
    plain, graphs = (
        it.decoder(make(it), rule, runner)
        for runner in (Runner(), CudaGraphs(it.model.device))
    )
    for prompt in (it.prompt, it.longer_prompt, it.prompt):
        expected, trace = plain.decode(*prompt)
        tokens, other = graphs.decode(*prompt)
        assert (tokens, other.drafts) == (expected, trace.drafts)
        assert all(ms >= 0 for ms in other.stage_ms.values())
        assert other.stage_ms['prefill'] > 0


def test_strict_under_a_guard_is_ar_under_it(it, every_third):
    expected, free = it.ar(every_third), it.ar()
    assert expected != free
    for make in (eagle, lambda it: it.guesser(2)):
        assert it.decode(make(it), Strict(), 'graphs', every_third)[0] == expected
    assert it.decode(eagle(it), Strict())[0] == free


def test_strict_is_ar(it):
    expected = it.ar()
    assert it.decode(eagle(it), Strict())[0] == expected
    assert it.decode(it.guesser(2), Strict())[0] == expected


def test_the_host_waits_once_a_pass_and_nothing_is_allocated(it):
    decoder = it.decoder(eagle(it), Bins(9))
    decoder.warm_up(*it.prompt)
    for _ in range(3):
        decoder.decode(*it.prompt)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()['num_device_alloc']
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter('always')
            _, trace = decoder.decode(*it.prompt)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    waits = [wait for wait in waits if 'synchronizing' in str(wait.message)]
    assert len(waits) == trace.target_passes
    assert torch.cuda.memory_stats()['num_device_alloc'] == before


def test_nothing_is_captured_after_the_warm_up_not_even_where_the_cache_has_grown(it):
    decoder = it.decoder(eagle(it), Bins(9))
    for prompt in 2 * (it.longer_prompt, it.prompt):
        decoder.warm_up(*prompt)
    captures = decoder.target.runner.captures
    for _ in range(5):
        decoder.decode(*it.prompt)
    assert decoder.target.runner.captures == captures > 3


@pytest.fixture
def in_bfloat16(it, lab):
    """Return a decoder as a 7B has it."""
    it.model = lab.new_model(0).to('cuda', torch.bfloat16)
    drafter = it.eagle(3, TreeBudget(3, 4, 12))
    drafter = EagleDrafter(drafter.head.to('cuda', torch.bfloat16), drafter.budget)
    return it.decoder(drafter, Bins(9))


def test_graphs_leave_no_workspace_of_cublas_behind(it, in_bfloat16):
    in_bfloat16.warm_up(*it.prompt)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch._C._cuda_clearCublasWorkspaces()  # as `torch.compile` does before it captures
    assert torch.cuda.memory_allocated() == before


def test_graphs_need_no_memory_that_others_may_take_back(it, in_bfloat16):
    in_bfloat16.warm_up(*it.prompt)
    expected = in_bfloat16.decode(*it.prompt)[0]
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    others = [torch.full((2**24,), torch.nan, device='cuda') for _ in range(8)]
    assert in_bfloat16.decode(*it.prompt)[0] == expected
    assert all(other.isnan().all() for other in others)


def test_a_decoder_that_is_gone_leaves_no_memory_behind(it, in_bfloat16):
    def reserved():
        decoder = it.decoder(NoDrafter(), Bins(9))
        decoder.warm_up(*it.prompt)
        del decoder
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    first = reserved()
    assert [reserved() for _ in range(3)] == 3 * [first]


def test_graphs_in_bfloat16(it, in_bfloat16):
    decoder, tokenizer = in_bfloat16, it.space.tokenizer
    first = decoder.decode(*it.prompt)[0]
    assert all(tokenizer.is_action(token) for token in first)
    assert decoder.decode(*it.prompt)[0] == first
