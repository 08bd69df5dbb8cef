"""The one loop, on random models: what it promises holds for every drafter and every rule."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch
from torch.overrides import TorchFunctionMode

from specvla_ros.benchmark.latency.random_weights import DrawnRule
from specvla_ros.decoding.drafters import (
    GlanceSettings,
    Held,
    HistoryDrafter,
    Jacobi,
    NoDrafter,
    RelayDrafter,
    TreeBudget,
)
from specvla_ros.decoding.rules.bins import Bins
from specvla_ros.decoding.rules.strict import Strict

seeds = st.integers(0, 2**20)
layouts = st.tuples(st.integers(1, 8), st.integers(1, 3))
budgets = st.builds(
    TreeBudget, top_k=st.integers(1, 5), depth=st.integers(1, 6), max_nodes=st.integers(2, 20)
)


@st.composite
def labs(draw, lab):
    """Draw a model (key/value heads shared or not), a prompt and an action space."""
    seed, (action_dim, chunk) = draw(st.integers(0, 3)), draw(layouts)
    return lab(seed, action_dim, chunk, kv_heads=draw(st.sampled_from([2, 4])))


def greedy(model, prompt_ids, pixel_values, length):
    """Decode without cache, tree or loop of ours: the whole sequence anew for each token."""
    tokenizer = model.action_tokenizer
    sequence, tokens = model.embed(prompt_ids, pixel_values), []
    for _ in range(length):
        logits = model.logits(model(sequence)[:, -1])
        logits = logits[0, tokenizer.first_id : tokenizer.last_id + 1]
        tokens.append(tokenizer.first_id + int(logits.argmax()))
        sequence = torch.cat((sequence, model.embed_tokens(torch.tensor([tokens[-1:]]))), dim=1)
    return tokens


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_ar_is_greedy_decoding_in_one_prefill_and_single_token_passes(data, lab):
    it = data.draw(labs(lab))
    length, sizes = it.space.length, []
    decoder = it.decoder(NoDrafter(), Strict())
    llama = it.model.fused_llama

    def counted(inputs, *others):
        sizes.append(inputs.shape[1])
        return llama(inputs, *others)

    decoder.target._llama = counted
    tokens, trace = decoder.decode(*it.prompt)
    assert tokens == greedy(it.model, *it.prompt, length)
    assert sizes[1:] == [1] * (length - 1)
    assert trace.target_passes == len(sizes) == length
    assert trace.acceptance_lengths == [1] * (length - 1)
    assert trace.sources == ['target'] * length
    assert trace.drafted == trace.accepted == 0


@given(data=st.data(), seed=seeds)
@settings(max_examples=60, deadline=None)
def test_strict_is_ar_for_random_trees_from_the_prefill_on(data, seed, lab):
    it = data.draw(labs(lab))
    tokens, _ = it.decode(it.guesser(seed), Strict())
    assert tokens == it.ar()


@given(data=st.data(), seed=seeds, budget=budgets)
@settings(max_examples=60, deadline=None)
def test_strict_is_ar_for_random_eagle_drafters(data, seed, budget, lab):
    it = data.draw(labs(lab))
    tokens, _ = it.decode(it.eagle(seed, budget), Strict())
    assert tokens == it.ar()


@given(data=st.data(), seed=seeds, r=st.integers(0, 15))
@settings(max_examples=60, deadline=None)
def test_the_trace_accounts_for_every_token(data, seed, r, lab):
    it = data.draw(labs(lab))
    tokens, trace = it.decode(it.guesser(seed), Bins(r))
    assert len(tokens) == len(trace.sources) == it.space.length
    assert trace.target_passes == len(trace.drafts) == len(trace.acceptance_lengths) + 1
    assert trace.drafts[0][1] + 1 + sum(trace.acceptance_lengths) == it.space.length
    assert trace.drafted == sum(drafted for drafted, _ in trace.drafts)
    assert trace.accepted == sum(accepted for _, accepted in trace.drafts)
    assert trace.sources.count('target') == trace.target_passes
    assert trace.sources.count('guesser') == trace.accepted


@given(data=st.data(), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_zero_bins_is_strict(data, seed, lab):
    it = data.draw(labs(lab))
    strict, bins = (
        it.decode(it.guesser(seed), rule) for rule in (Strict(), Bins(0, gripper_exact=False))
    )
    assert strict[0] == bins[0]
    assert strict[1].drafts == bins[1].drafts


@given(data=st.data(), seed=seeds, r=st.integers(1, 30), exact=st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_token_is_within_r_of_the_targets_own_choice(data, seed, r, exact, lab):
    it = data.draw(labs(lab))
    tokens, trace = it.decode(it.guesser(seed), Bins(r, gripper_exact=exact))
    # What the target says at each position, given the tokens that were kept before it.
    model, tokenizer = it.model, it.space.tokenizer
    sequence = torch.cat(
        (model.embed(*it.prompt), model.embed_tokens(torch.tensor([tokens[:-1]]).long())), dim=1
    )
    logits = model.logits(model(sequence))[0, -len(tokens) :]
    own = logits[:, tokenizer.first_id : tokenizer.last_id + 1].argmax(-1) + tokenizer.first_id
    for position, (token, choice) in enumerate(zip(tokens, own.tolist(), strict=True)):
        tolerance = 0 if trace.sources[position] == 'target' else r
        if exact and it.space.is_gripper(position):
            tolerance = 0
        assert abs(tokenizer.bins(token) - tokenizer.bins(choice)) <= tolerance
        assert tolerance or token == choice


def test_one_decoder_decodes_one_action_after_another(lab):
    it, other = lab(0, 7, 1), lab(1, 7, 1)
    decoder = it.decoder(it.eagle(3, TreeBudget(3, 5, 12)), Strict())
    prompts = [it.prompt, other.prompt, it.prompt]
    tokens = [decoder.decode(*prompt)[0] for prompt in prompts]
    assert tokens[0] == tokens[2] == it.ar()
    assert tokens[1] == greedy(it.model, *other.prompt, 7)


def test_stage_times_are_those_of_the_stages_there_were(lab):
    it = lab(0, 7, 1)
    _, trace = it.decode(it.eagle(3, TreeBudget(2, 3, 5)), Strict())
    assert set(trace.stage_ms) == {'vision', 'prefill', 'draft', 'verify'}
    assert all(milliseconds > 0 for milliseconds in trace.stage_ms.values())


def test_nothing_is_recorded_for_gradients(lab):
    it = lab(0, 3, 1)
    decoder = it.decoder(NoDrafter(), Strict())
    with torch.enable_grad():
        decoder.decode(*it.prompt)
    assert decoder.target.cache.storage.grad_fn is None


class HostCopies(TorchFunctionMode):
    """Counts what makes the host wait for a GPU: a tensor's value asked for."""

    ASKED = {'tolist', 'item', 'cpu', 'numpy', '__array__', '__bool__', '__int__', '__float__',
             '__index__', '__iter__', '__contains__', 'nonzero'}

    def __init__(self):
        self.names = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function.__name__ in self.ASKED:
            self.names.append(function.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize('runner', ['plain', 'graphs'])
@pytest.mark.parametrize('make', [
    lambda it: it.eagle(3, TreeBudget(3, 5, 12)), lambda it: Jacobi().drafter(None),
    lambda it: RelayDrafter([it.glance(3, GlanceSettings(branches=3)), Jacobi().drafter(None)]),
], ids=['eagle', 'jacobi', 'glance+jacobi'])
def test_the_host_waits_once_a_pass(make, runner, lab):
    it = lab(0, 7, 1)
    decoder = it.decoder(make(it), Bins(9), runner)
    decoder.decode(*it.prompt)
    with HostCopies() as copies:
        _, trace = decoder.decode(*it.prompt)
    assert trace.target_passes > 2 and trace.drafted > 0
    # Neither drafting nor acceptance nor the commit asks for a value of its own.
    assert copies.names == ['tolist'] * trace.target_passes


@given(data=st.data(), seed=seeds, drafter=st.sampled_from(['eagle', 'guesser', 'none']))
@settings(max_examples=12, deadline=None)
def test_decoding_by_graphs_is_decoding(data, seed, drafter, lab):
    it = data.draw(labs(lab))
    make = {
        'eagle': lambda: it.eagle(seed, TreeBudget(3, 4, 12)),
        'guesser': lambda: it.guesser(seed), 'none': NoDrafter,
    }[drafter]
    for rule in (Strict(), Bins(9)):
        plain, graphs = it.decoder(make(), rule), it.decoder(make(), rule, 'graphs')
        for prompt in (it.prompt, it.longer_prompt, it.prompt):
            tokens, trace = plain.decode(*prompt)
            again, other = graphs.decode(*prompt)
            assert (again, other.drafts, other.sources) == (tokens, trace.drafts, trace.sources)


def test_rules_of_one_target_have_graphs_of_their_own(lab):
    it = lab(2, 7, 1)
    decoder = it.decoder(it.guesser(4), Strict(), 'graphs')
    for r in (0, 9, 200, 9, 0):
        # A rule that is gone may leave its place in memory to the next one.
        rule = Bins(r)
        acceptance = replace(decoder.acceptance, rule=rule)
        again = replace(
            decoder, drafter=it.guesser(4), acceptance=acceptance).decode(*it.prompt)
        tokens, trace = it.decode(it.guesser(4), Bins(r))
        assert (again[0], again[1].drafts) == (tokens, trace.drafts)


def test_a_replayed_acceptance_is_drawn_anew_in_a_graph(lab):
    it = lab(0, 7, 2)

    def drafts(runner):
        rule = DrawnRule((0.25, 0.25, 0.25, 0.25), seed=3)
        decoder = it.decoder(it.eagle(3, TreeBudget(3, 5, 12)), rule, runner)
        return [decoder.decode(*it.prompt)[1].drafts for _ in range(6)]

    assert drafts('graphs') == drafts('plain')
    assert len({str(drafts) for drafts in drafts('graphs')}) > 3


@pytest.mark.parametrize('budget', [TreeBudget(3, 5, 12), TreeBudget(8, 4, 50)])
def test_nothing_is_captured_after_the_warm_up(budget, lab):
    it = lab(0, 7, 1)
    right = it.ar()
    eagle, held = it.eagle(3, budget), HistoryDrafter(Held())
    own = Jacobi().drafter(None)
    relays = RelayDrafter([held, eagle]), RelayDrafter([held, own]), RelayDrafter([eagle, own])
    for drafter in (eagle, held, own, *relays, NoDrafter()):
        decoder = it.decoder(drafter, Strict(), 'graphs')
        for prompt in 2 * (it.longer_prompt, it.prompt):  # as Policy.warm_up
            decoder.warm_up(*prompt)
        captures = decoder.target.runner.captures
        assert captures > 2
        for known in range(8):  # of a held action so many tokens are right
            drafter.remember([*right[:known], *(token ^ 1 for token in right[known:])])
            assert decoder.decode(*it.prompt)[0] == right
            decoder.decode(*lab(1, 7, 1).prompt)
        assert decoder.target.runner.captures == captures


@pytest.mark.parametrize('runner', ['plain', 'graphs'])
def test_an_action_that_was_not_finite_leaves_nothing_behind(runner, lab):
    it = lab(0, 7, 1)
    eagle = it.eagle(3, TreeBudget(3, 5, 12))
    own, relay = Jacobi().drafter(None), RelayDrafter([HistoryDrafter(Held()), eagle])
    for drafter in (NoDrafter(), eagle, relay, own):
        decoder = it.decoder(drafter, Strict(), runner)
        ids, pixels = it.longer_prompt
        drafter.remember(it.ar())
        with pytest.raises(ValueError, match='not finite'):
            decoder.decode(ids, pixels * float('nan'))
        drafter.reset()
        assert decoder.decode(*it.prompt)[0] == it.ar()


def test_the_cache_is_allocated_once(lab):
    it = lab(0, 7, 1)
    decoder = it.decoder(it.eagle(3, TreeBudget(3, 5, 12)), Strict())
    decoder.decode(*it.prompt)
    caches = decoder.target.cache, decoder.drafter._cache
    before = [cache.storage.data_ptr() for cache in caches]
    for _ in range(5):
        decoder.decode(*it.prompt)
    assert before == [cache.storage.data_ptr() for cache in caches]
