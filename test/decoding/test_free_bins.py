"""A guard is not asked where the situation says that nothing can be forbidden."""

from dataclasses import dataclass
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st
import torch

from specvla_ros.decoding.drafters import NoDrafter
from specvla_ros.decoding.rules.bins import Bins
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.situation import Situation

asked = []


@dataclass(frozen=True)
class Window:
    """Forbids all bins of a token outside a window, and counts how often it is asked."""

    low: int
    high: int

    def allowed(self, said, position, state, space):
        asked.append(len(said))
        ids = torch.arange(space.tokenizer.n_bins) + space.tokenizer.first_id
        bins = space.tokenizer.bins(ids)
        return ((bins >= self.low) & (bins <= self.high)).expand(len(said), -1)


@given(seed=st.integers(0, 2**20), ends=st.lists(st.integers(0, 254), min_size=2, max_size=2),
       r=st.sampled_from([0, 9, 255]))
@settings(max_examples=25, deadline=None)
def test_tokens_are_those_of_a_guard_that_is_always_asked(seed, ends, r, lab):
    it, guard = lab(seed % 4, 7, 1), Window(min(ends), max(ends))
    free = ((guard.low, guard.high),) * 7
    found = []
    for situation in (Situation(), Situation(free_bins=free)):
        decoder = it.decoder(it.guesser(seed), Bins(r, False), 'plain', guard)
        found.append(decoder.decode(*it.prompt, situation))
    (tokens, trace), (others, other) = found
    assert (tokens, trace.forbidden, trace.bins_off) == (others, other.forbidden, other.bins_off)


def test_the_guard_is_asked_only_where_a_token_is_not_free(lab):
    it = lab(1, 7, 1)
    own = [it.space.tokenizer.bins(token) for token in it.ar()]
    decoder = it.decoder(NoDrafter(), Strict(), 'plain', Window(0, 254))
    free = [(it, it) for it in own]
    asked.clear()
    assert decoder.decode(*it.prompt, Situation(free_bins=tuple(free)))[0] == it.ar()
    assert not asked
    # Of a vector with a token that is not free the next ones depend on it; others do not.
    for place, passes in ((0, 3), (2, 1), (4, 2), (6, 1)):
        less = (*free[:place], (1, 0), *free[place + 1:])
        asked.clear()
        decoder.decode(*it.prompt, Situation(free_bins=less))
        assert len(asked) == passes, place
    # A guess that is not free is judged, though the target wants another.
    asked.clear()
    it.decoder(it.guesser(5), Strict(), 'plain', Window(0, 254)).decode(
        *it.prompt, Situation(free_bins=tuple(free)))
    assert asked


def test_in_graphs_it_is_always_asked_so_nothing_is_captured_anew(lab):
    it = lab(1, 7, 1)
    decoder = it.decoder(NoDrafter(), Strict(), 'graphs', Window(0, 254))
    free = Situation(free_bins=((0, 254),) * 7)
    assert decoder.decode(*it.prompt, free)[0] == it.ar()
    captures = decoder.target.runner.captures
    decoder.decode(*it.prompt, Situation(free_bins=((1, 0),) * 7))
    assert decoder.target.runner.captures == captures


def test_on_a_device_it_is_always_asked_as_nothing_may_be_copied_for_the_answer(lab):
    decoder = lab(0, 7, 1).decoder(NoDrafter(), Strict(), 'plain', Window(0, 254))
    free = ((0, 254),) * 7
    row = torch.full((1,), decoder.acceptance.space.tokenizer.first_id)
    plain = decoder.target.runner
    for said, is_free in ((row, True), (row.to('meta'), False)):
        verified = SimpleNamespace(argmax=said, runner=plain)
        assert decoder.acceptance._is_free(TokenTree.empty(), verified, (), free) is is_free
