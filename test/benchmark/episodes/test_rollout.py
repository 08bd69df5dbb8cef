"""One episode: what is recorded, what a crash is, and what `ar` says on the same pictures."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from specvla_ros.benchmark.deviation import BIN_WIDTH, deviation
from specvla_ros.benchmark.episodes.envelope import settings_for_json
from specvla_ros.benchmark.episodes.latency import Latency
from specvla_ros.benchmark.episodes.rollout import play, RolloutConfig
from specvla_ros.benchmark.records import EpisodeRecord
from specvla_ros.data_sets import load_dataset
from specvla_ros.execution import Execution
from specvla_ros.safety import NO_LIMITS, step_limits
from specvla_ros.safety_settings import SafetySettings


class Environment:
    """Solved after `solved_after` steps; fails with `error` at `fails_at`."""

    suite, task_id, instruction, max_steps = 'libero_object', 2, 'pick up the milk', 6

    def __init__(self, solved_after=99, fails_at=99):
        self.solved_after, self.fails_at, self.steps = solved_after, fails_at, 0

    def reset(self, state_index):
        self.steps = 0
        return SimpleNamespace(image=np.full((4, 4, 3), state_index, np.uint8), success=False)

    def step(self, action):
        assert action.shape == (7,)
        self.steps += 1
        if self.steps == self.fails_at:
            raise RuntimeError('mjWARNING\nsecond line')
        return SimpleNamespace(image=np.zeros((4, 4, 3), np.uint8),
                               success=self.steps >= self.solved_after)


class FakePolicy:
    """Says the same action of `chunk` steps every time, `bins` away from zero."""

    def __init__(self, bins=0, chunk=1):
        self.bins, self.chunk, self.seen, self.resets = bins, chunk, [], 0
        self.executed = []

    def reset(self):
        self.resets += 1

    def act(self, image, instruction, stamp=None, *, executed=None):
        self.seen.append(int(image[0, 0, 0]))
        self.executed.append(executed)
        normalized = np.zeros((self.chunk, 7), np.float32)
        normalized[:, 0] = self.bins * BIN_WIDTH
        si = normalized * 0.05
        trace = SimpleNamespace(target_passes=7, drafted=0, accepted=0,
                                acceptance_lengths=[1] * 6, sources=['target'] * 7,
                                stage_ms={'vision': 1.0, 'total': 2.0}, risk=0.25)
        return SimpleNamespace(tokens=tuple([31900 + self.bins] * 7 * self.chunk),
                               normalized=normalized, si=si, trace=trace)


def test_success_ends_the_episode():
    episode = play(Environment(solved_after=3), FakePolicy(), 'ar', 5, RolloutConfig())
    assert (episode.success, episode.steps, len(episode.actions)) == (True, 3, 3)
    assert episode.key == ('libero_object', 2, 5, 'ar')


@pytest.mark.parametrize('limit, steps', [(None, 6), (2, 2)])
def test_the_step_limit_is_the_suites_or_the_users(limit, steps):
    episode = play(Environment(), FakePolicy(), 'ar', 0, RolloutConfig(max_steps=limit))
    assert (episode.success, episode.steps, episode.crash) == (False, steps, None)


def test_an_exception_of_the_simulator_is_a_crash_with_its_message():
    episode = play(Environment(fails_at=2), FakePolicy(), 'ar', 0, RolloutConfig())
    assert not episode.success and episode.steps == 1
    assert episode.crash == 'RuntimeError: mjWARNING'


def test_a_chunk_is_played_step_by_step_and_never_beyond_the_limit():
    episode = play(Environment(), FakePolicy(chunk=4), 'ar', 0, RolloutConfig())
    assert (episode.steps, len(episode.actions)) == (6, 2)


class Log(Environment):
    """Keeps what it was told; says in each image how many steps that was."""

    max_steps = 40

    def __init__(self, **settings):
        super().__init__(**settings)
        self.told = []

    def step(self, action):
        seen = super().step(action)
        self.told.append(action)
        return SimpleNamespace(image=np.full((4, 4, 3), self.steps, np.uint8),
                               success=seen.success)


@pytest.mark.parametrize('execute, latency, images, stands, executed', [
    (4, 0, range(0, 12, 4), 0, 4), (1, 0, range(12), 0, 1), (None, 0, [0, 8], 0, None),
    (4, 2, range(0, 12, 4), 2, 4), (8, 2, range(0, 12, 6), 2, 6), (2, 3, range(0, 12, 3), 3, 3)])
def test_so_many_steps_of_an_answer_are_executed_and_then_it_is_asked_again(
        execute, latency, images, stands, executed):
    environment, policy = Log(solved_after=12), FakePolicy(bins=3, chunk=8)
    episode = play(environment, policy, 'ar', 0, RolloutConfig(
        execution=Execution(execute, latency)))
    assert episode.success and episode.crash is None and episode.steps == 12
    assert policy.seen == list(images)
    assert policy.executed == [None] + [executed] * (len(images) - 1)
    assert sum(not delta[:6].any() for delta in environment.told) == stands
    assert sum(action.steps for action in episode.actions) == 12 - stands
    again = EpisodeRecord.from_json(episode.to_json())
    assert [action.steps for action in again.actions] == [
        action.steps for action in episode.actions]


def test_an_action_of_one_step_has_no_figures_of_steps_but_with_a_latency():
    episode = play(Log(solved_after=4), FakePolicy(), 'ar', 0, RolloutConfig())
    assert {action.steps for action in episode.actions} == {None}
    environment, policy = Log(solved_after=9), FakePolicy(bins=3)
    episode = play(environment, policy, 'ar', 0, RolloutConfig(execution=Execution(1, 4)))
    assert policy.seen == [0, 4, 8]
    assert [delta[0] != 0 for delta in environment.told] == [False] * 4 + [True] + [False] * 3 + [
        True]
    assert [action.steps for action in episode.actions] == [0, 1, 1]


class SlowPolicy(FakePolicy):
    """Says its own number; takes so many seconds for each action in turn, or so many passes."""

    dataset = load_dataset('libero_object')

    def __init__(self, seconds=(), passes=(), chunk=1):
        super().__init__(chunk=chunk)
        self.seconds, self.passes = list(seconds), list(passes)

    def act(self, image, instruction, stamp=None, *, executed=None):
        action = super().act(image, instruction, stamp, executed=executed)
        number = len(self.seen)
        if self.seconds:
            action.trace.stage_ms = {
                'total': 1000 * self.seconds[(number - 1) % len(self.seconds)]}
        if self.passes:
            action.trace.target_passes = self.passes[(number - 1) % len(self.passes)]
        action.si[:, 0], action.si[:, 1] = number, np.arange(self.chunk)
        return action


def played(policy, latency, execute=1, steps=12):
    """Return in each period (number of the action, step of it), None = the arm stands still."""
    environment = Log(solved_after=steps)
    episode = play(environment, policy, 'ar', 0, RolloutConfig(
        execution=Execution(execute), latency=latency))
    assert episode.success and episode.crash is None
    assert sum(action.steps for action in episode.actions) == sum(
        bool(delta[0]) for delta in environment.told)
    return [(int(delta[0]), int(delta[1])) if delta[0] else None for delta in environment.told]


@pytest.mark.parametrize('seconds, numbers', [
    ([0.03], [1, 2, 3, 4, 5, 6]),                        # there within the period
    ([0.12], [None, None, 1, None, 2, None, 3]),         # each is two periods late
    ([0.06, 0.03], [None, 1, 2, None, 3, 4, None, 5]),   # a late one keeps its period
    ([0.03, 0.11, 0.03, 0.03], [1, None, None, 2, 3, 4, 5, None, None, 6])])
def test_an_action_is_as_late_as_it_was_slow(seconds, numbers):
    done = played(SlowPolicy(seconds), Latency(measured=True), steps=len(numbers))
    assert [step and step[0] for step in done] == numbers


def test_by_passes_a_faster_decoder_acts_sooner_and_more_often():
    ar, relaxed = (played(SlowPolicy(passes=passes), Latency(0.05, 0.02), steps=12)
                   for passes in ([7], [1, 2]))
    assert [step and step[0] for step in ar] == [None] * 3 + [1, None, None, 2, None, None,
                                                              3, None, None]
    assert [step and step[0] for step in relaxed] == [None, *range(1, 12)]


def test_steps_of_a_chunk_go_on_while_the_next_one_is_late():
    """Beyond the E steps too; those of the newer chunk are the ones of their own times."""
    policy = SlowPolicy([0.03, 0.26], chunk=8)
    done = played(policy, Latency(measured=True), execute=4, steps=14)
    assert done == [*((1, step) for step in range(8)), None,
                    (2, 5), *((3, step) for step in range(1, 5))]
    assert policy.seen == [0, 4, 9]


@pytest.mark.parametrize('chunk, execute, late', [
    (1, 1, 0), (1, 1, 3), (8, 4, 0), (8, 4, 2), (8, 8, 3), (8, 2, 5), (4, 4, 6), (8, None, 8)])
def test_the_same_latency_every_time_is_a_fixed_one(chunk, execute, late):
    def told(config):
        environment = Log(solved_after=30)
        play(environment, SlowPolicy([0.05 * late + 0.01], chunk=chunk), 'ar', 0, config)
        return np.array(environment.told)

    fixed = told(RolloutConfig(execution=Execution(execute, late)))
    measured = told(RolloutConfig(execution=Execution(execute), latency=Latency(measured=True)))
    np.testing.assert_array_equal(fixed, measured)


def test_ar_is_run_beside_every_nth_action_on_the_same_picture():
    policy, reference = FakePolicy(bins=5), FakePolicy(bins=2)
    episode = play(
        Environment(), policy, 'relaxed', 7, RolloutConfig(reference_every=4), reference)
    assert [action.deviation is not None for action in episode.actions] == [
        True, False, False, False, True, False]
    first = episode.actions[0].deviation
    assert first.max_bins == 3
    assert first.mm == pytest.approx(1000 * 3 * BIN_WIDTH * 0.05 / 3)  # x only, mean of x, y, z
    assert first.deg == 0.0
    assert policy.seen[0] == reference.seen[0] == 7


def test_ids_that_decode_to_the_same_value_are_no_distance_apart():
    one, other = (FakePolicy().act(np.zeros((1, 1, 3)), '') for _ in range(2))
    other.tokens = tuple(token + 1 for token in other.tokens)
    assert deviation(one, other).max_bins == 0


def test_no_reference_where_it_is_switched_off():
    reference = FakePolicy()
    play(Environment(), FakePolicy(), 'relaxed', 0, RolloutConfig(reference_every=0), reference)
    assert reference.seen == []


class Walking(Environment):
    """The end effector goes where it is told."""

    def __init__(self):
        super().__init__()
        self.place, self.done = np.array([0.0, 0.0, 0.5]), []

    def reset(self, state_index):
        return self._seen(super().reset(state_index))

    def step(self, action):
        self.place = self.place + action[:3]
        self.done.append(np.array(action))
        return self._seen(super().step(action))

    def _seen(self, observation):
        observation.eef_position = self.place
        return observation


class EnvelopedPolicy(FakePolicy):
    """Notes where it was told to be and what it may choose from; moves 50 mm along x."""

    dataset = load_dataset('libero_object')

    def __init__(self, chunk=1):
        super().__init__(bins=255, chunk=chunk)
        self.told = []

    def act(self, image, instruction, stamp=None, eef_position=None, limits=None):
        self.told.append((eef_position, limits))
        action = super().act(image, instruction, stamp)
        action.si[:, 0] = 0.05
        return action


WALLED = SafetySettings(
    (-1.0, -1.0, 0.0), (0.12, 1.0, 1.0), 0.04, 0.5, 1.8, 18.0, 0.012 / 0.05**2, 360.0, 10, 'none')


@pytest.mark.parametrize('chunk', [1, 3])
def test_under_an_envelope_an_episode_is_played_as_the_node_would(chunk):
    """The decoder is told the next step's limits, and what is executed fits the envelope."""
    world, policy, reference = Walking(), EnvelopedPolicy(chunk), EnvelopedPolicy(chunk)
    episode = play(world, policy, 'relaxed', 0, RolloutConfig(None, 1, safety=WALLED), reference)
    assert episode.crash is None and episode.steps == 6
    steps = [step[0] for step in world.done]
    # 12 mm more than the step before, at most 40 mm, up to the wall at x = 120 mm.
    assert steps == pytest.approx([0.012, 0.024, 0.036, 0.04, 0.008, 0.0])
    assert policy.told == reference.told  # `ar` says what it would do in the same envelope
    places = np.cumsum([0.0, *steps])
    for number, (eef_position, limits) in enumerate(policy.told):
        done = number * chunk
        assert eef_position == pytest.approx((places[done], 0.0, 0.5))
        previous = world.done[done - 1] if done else None
        assert limits == step_limits(WALLED, 0.05, position_m=eef_position, previous=previous)


def test_without_an_envelope_nobody_is_told_of_one():
    policy, world = EnvelopedPolicy(), Walking()
    play(world, policy, 'ar', 0, RolloutConfig())
    assert set(policy.told) == {(None, None)}
    assert [step[0] for step in world.done] == pytest.approx([0.05] * 6)


def test_an_action_that_must_not_be_executed_is_a_crash():
    class Broken(EnvelopedPolicy):
        def act(self, *arguments):
            action = super().act(*arguments)
            action.si[:, 1] = np.nan
            return action

    world = Walking()
    episode = play(world, Broken(), 'ar', 0, RolloutConfig(safety=WALLED))
    assert 'not finite' in episode.crash and not world.done


def test_an_envelope_without_a_limit_can_be_written_as_json():
    endless = SafetySettings((-float('inf'),) * 3, (float('inf'),) * 3, *[float('inf')] * 7,
                             fallback='none')
    text = json.dumps(settings_for_json(endless), allow_nan=False)
    assert json.loads(text)['workspace_min_m'] == ['-inf'] * 3
    assert step_limits(endless, 0.05) == NO_LIMITS


@pytest.mark.parametrize('execution, firm', [(Execution(4, 1), 5), (Execution(), None)])
def test_decoders_whose_thresholds_grow_by_step_are_told_which_steps_are_firm(execution, firm):
    class Told(FakePolicy):
        told = []

        def act(self, *args, firm_steps=None, **more):
            self.told.append(firm_steps)
            return super().act(*args, **more)

    for decoder, expected in (('loose', firm), ('other', None)):
        Told.told.clear()
        play(Environment(), Told(chunk=8), decoder, 0,
             RolloutConfig(execution=execution, by_step=frozenset({'loose'})))
        assert set(Told.told) == {expected}
