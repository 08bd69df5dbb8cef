"""Decoders side by side: who gets which observation when, and what is written down."""

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from specvla_ros.actions import Action
from specvla_ros.benchmark.latency.contest import contest, warm_up
from specvla_ros.benchmark.observations import Footage
from specvla_ros.decoding.trace import DecodeTrace


@dataclass
class Recorder:
    """Acts by writing down what it was asked, in a diary shared with the others."""

    name: str
    diary: list = field(default_factory=list)
    shift: int = 0

    def reset(self):
        self.diary.append((self.name, 'reset'))

    def act(self, image, instruction):
        self.diary.append((self.name, int(image[0, 0, 0])))
        normalized = np.full((1, 7), self.shift * 2 / 255, np.float32)
        return Action((self.shift,) * 7, normalized, normalized, normalized,
                      DecodeTrace(drafts=[(0, 0)] * 7, stage_ms={'total': 1.0}))


@pytest.fixture
def episodes():
    frames = [np.full((4, 4, 3), value, np.uint8) for value in range(20)]
    return [Footage('pick up', tuple(frames[:12])), Footage('place', tuple(frames[12:]))]


@pytest.fixture
def diary():
    return []


@pytest.fixture
def policies(diary):
    return {name: Recorder(name, diary, shift) for shift, name in enumerate(('ar', 'b', 'c'))}


def test_all_get_an_observation_before_anyone_gets_the_next(policies, episodes, diary):
    contest(policies, episodes, repeats=1, seed=0)
    acts = [entry for entry in diary if entry[1] != 'reset']
    for start in range(0, len(acts), 3):
        three = acts[start:start + 3]
        assert {name for name, _ in three} == {'ar', 'b', 'c'}
        assert {image for _, image in three} == {start // 3}


def test_the_order_changes_and_nobody_is_always_first(policies, episodes):
    samples = contest(policies, episodes, repeats=5, seed=0)
    first = Counter(sample.contestant for sample in samples if sample.turn == 0)
    assert sum(first.values()) == 100
    assert all(20 <= first[name] <= 47 for name in policies)  # a third each, ±3 deviations


def test_the_same_seed_gives_the_same_order(policies, episodes):
    orders = [[(s.contestant, s.turn) for s in contest(policies, episodes, 1, seed)]
              for seed in (3, 3, 4)]
    assert orders[0] == orders[1] != orders[2]


def test_each_lives_an_episode_in_its_order_and_forgets_before_it(policies, episodes, diary):
    contest(policies, episodes, repeats=2, seed=0)
    own = [what for name, what in diary if name == 'b']
    assert own == 2 * ['reset', *range(12), 'reset', *range(12, 20)]


def test_actions_are_compared_with_the_baselines_on_the_same_observation(policies, episodes):
    samples = contest(policies, episodes, repeats=1, seed=0)
    deviations = {s.contestant: s.record.deviation for s in samples}
    assert deviations['ar'] is None
    assert (deviations['b'].max_bins, deviations['c'].max_bins) == (1, 2)


def test_whose_tokens_mean_nothing_is_not_compared(policies, episodes):
    samples = contest(policies, episodes, repeats=1, seed=0, drawn={'b'})
    compared = {s.contestant for s in samples if s.record.deviation is not None}
    assert compared == {'c'}


def test_progress_counts_every_action(policies, episodes):
    done = []
    samples = contest(policies, episodes, 1, 0, lambda: done.append(1))
    assert len(done) == len(samples) == 3 * 20


def test_warming_up_leaves_no_memory(policies, episodes, diary):
    warm_up(policies['b'], episodes[0])
    assert len(diary) > 1 and diary[-1] == ('b', 'reset')


def test_of_a_chunk_the_contestants_are_told_how_much_was_executed(episodes):
    class Chunks(Recorder):

        def act(self, image, instruction, *, executed=None):
            self.diary.append(executed)
            action = super().act(image, instruction)
            return replace(action, tokens=action.tokens * 4,
                           si=np.repeat(action.si, 4, axis=0))

    for execute_steps, told in ((2, 2), (4, None)):
        diary = []
        samples = contest({'ar': Chunks('ar', diary)}, episodes, 1, 0, execute_steps=execute_steps)
        executed = [entry for entry in diary if not isinstance(entry, tuple)]
        assert executed == ([None] + [told] * 11) + ([None] + [told] * 7)
        assert {sample.record.steps for sample in samples} == {execute_steps}
