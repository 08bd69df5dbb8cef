"""What holds for whatever drafter there is, alone and in relays: strict acceptance is ar."""

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from specvla_ros.decoding.drafters import DRAFTERS, make_drafter, RelayDrafter
from specvla_ros.decoding.drafters.action_memory import ActionMemory
from specvla_ros.decoding.rules.bins import Bins
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.situation import Situation

# Without these settings it could never guess here.
SETTINGS = {
    'eagle': {'top_k': 2, 'depth': 3, 'max_nodes': 6}, 'glance': {'branches': 3},
    'retrieval': {'memory': 5, 'neighbours': 3}, 'hybrid_kinematic': {'threshold': 0.2},
}
# More than one switch of a relay leaves only the drafters that both let play.
RELAYS = (
    'retrieval+hybrid_kinematic+eagle', 'retrieval+hybrid_kinematic+glance+jacobi',
    'velocity+history+kalman+glance+retrieval+jacobi', 'kalman+eagle+jacobi', 'none+kalman',
)


@cache
def names():
    return (*sorted(DRAFTERS), *RELAYS)


def made(it, name, nodes=None):
    """Drafter by name, its networks random."""
    weights = {
        'eagle': lambda: it.eagle(3, DRAFTERS['eagle']()).head,
        'glance': lambda: it.glance(3).head, 'retrieval': lambda: ActionMemory.empty(it.model),
    }
    parts = name.split('+')
    if len(parts) == 1:
        return make_drafter(name, SETTINGS.get(name, {}), weights)
    own = {part: SETTINGS[part] for part in parts if part in SETTINGS}
    return make_drafter(name, own | ({'nodes': nodes} if nodes else {}), weights)


@given(data=st.data(), seed=st.integers(0, 2**20))
@settings(max_examples=60, deadline=None)
def test_strict_is_ar_for_every_drafter_and_whatever_it_remembers(data, seed, lab):
    it = lab(data.draw(st.integers(0, 3)), *data.draw(
        st.tuples(st.integers(1, 7), st.integers(1, 3))))
    name = data.draw(st.sampled_from(names()))
    nodes = data.draw(st.sampled_from([None, 1, 3, 8]))
    drafter, random = made(it, name, nodes), np.random.default_rng(seed)
    decoder = it.decoder(drafter, Strict(), data.draw(st.sampled_from(['plain', 'graphs'])))
    right, tokenizer = it.ar(), it.space.tokenizer
    for step in range(4):
        position = (0.1 * step, 0.0, 0.2) if random.integers(2) else None
        tokens, _ = decoder.decode(*it.prompt, Situation(eef_position=position))
        assert tokens == right
        off = random.integers(-3, 4, len(right)) * random.integers(2)
        drafter.remember([int(token) for token in np.clip(
            np.array(right) + off, tokenizer.first_id, tokenizer.last_id)])


@pytest.mark.parametrize('name', RELAYS)
def test_an_episode_after_a_reset_is_as_the_first(name, lab):
    it = lab(0, 7, 1)
    drafter = made(it, name.replace('retrieval', 'history'), nodes=4)  # that one may remember
    decoder = it.decoder(drafter, Bins(30))

    def episode():
        drafter.reset()
        played = []
        for prompt in (it.prompt, it.longer_prompt, it.prompt, it.longer_prompt):
            tokens, trace = decoder.decode(*prompt)
            drafter.remember(tokens)
            played.append((tokens, trace.drafts, trace.sources))
        return played

    first = episode()
    assert episode() == first
    assert sum(drafted for _, drafts, _ in first for drafted, _ in drafts) > 0


def test_nothing_is_guessed_deeper_than_what_can_be_saved(lab):
    it = lab(1, 4, 1)
    for name in names():
        drafter = made(it, name)
        decoder = it.decoder(drafter, Strict())
        for _ in range(3):
            tokens, trace = decoder.decode(*it.prompt)
            assert len(tokens) == it.space.length
            drafter.remember(tokens)
        # A network here is random, and a switch may let nobody play who remembers.
        if name not in ('none', 'eagle', 'glance') and 'hybrid_kinematic' not in name:
            assert trace.drafts[0][1] == it.space.length - 1, name  # all remembered was right
    assert isinstance(made(it, RELAYS[0]), RelayDrafter)
