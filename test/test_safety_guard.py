"""The envelope inside the acceptance: every action said fits it, and nothing else changes."""
from dataclasses import replace
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from specvla_ros.action_space import ActionSpace
from specvla_ros.actions import bin_values, to_si
from specvla_ros.bin_limits import BinValues, can_forbid, free_bins
from specvla_ros.data_sets import load_dataset
from specvla_ros.openvla.action_tokenizer import ActionStatistics, ActionTokenizer
from specvla_ros.safety import fit, NO_LIMITS, step_limits
from specvla_ros.safety_guard import EnvelopeGuard, guard_numbers
from specvla_ros.safety_settings import SafetySettings
from specvla_ros.situation import Situation

TOKENIZER = ActionTokenizer(300)
ARM = SafetySettings.read('safety_arm')


class World:
    """A data set, statistics, an envelope, and where the arm is: all drawn from a seed."""

    def __init__(self, seed, chunk=1):
        self.random = random = np.random.default_rng(seed)
        self.data = load_dataset(['libero_object', 'bridge_orig'][seed % 2])
        unit = np.repeat((0.05 / self.data.translation_scale_m,
                          0.15 / self.data.rotation_scale_rad, 1.0), (3, 3, 1))
        self.statistics = ActionStatistics(
            -random.uniform(0.1, 1, 7) * unit, random.uniform(0.1, 1, 7) * unit,
            np.array([True] * 6 + [False]))
        self.space = ActionSpace(TOKENIZER, 7, chunk)
        self.bins = bin_values(self.statistics, self.data, TOKENIZER)
        self.period = period = self.data.period_s
        longest = np.exp(random.uniform(np.log(5e-3), np.log(0.1)))
        turn = np.exp(random.uniform(np.log(2e-2), np.log(0.5)))
        share, turn_share = np.exp(random.uniform(np.log(0.2), 1, 2))  # of it, from rest
        self.settings = SafetySettings(
            (-0.3,) * 3, (0.3,) * 3, longest, turn, longest / period, math.inf,
            share * longest / period**2, turn_share * turn / period**2, 10, 'none')
        self.place = random.uniform(-0.3, 0.3, 3) if seed % 3 else None
        if seed % 3 == 1:
            self.place[seed % 2] = 0.3  # it touches a wall
        wish = random.normal(0, [0.02] * 3 + [0.1] * 3 + [1])[None]
        self.before = fit(wish, self.settings, period).deltas[0] if seed % 5 else None
        self.guard = EnvelopeGuard(self.data.rotation)

    def state(self):
        limits = step_limits(
            self.settings, self.period, position_m=self.place, previous=self.before)
        numbers = Situation(limits=guard_numbers(limits, self.bins, self.space.chunk)).numbers(7)
        return torch.tensor(numbers, dtype=torch.float64)

    def allowed(self, said):
        """Allowed ids behind each of some prefixes, bool [R, bins]."""
        rows = [[*tokens, *[-1] * (self.space.length - len(tokens))] for tokens in said]
        return self.guard.allowed(
            torch.tensor(rows), torch.tensor([len(it) for it in said]), self.state(), self.space)

    def say(self, logits):
        """The best allowed token each time, by logits [L, bins]."""
        said = []
        for row in logits:
            allowed = self.allowed([said])[0].numpy()
            assert allowed.any()
            said.append(int(np.where(allowed, row, -np.inf).argmax()) + TOKENIZER.first_id)
        return said

    def si(self, tokens):
        normalized = TOKENIZER.decode(np.reshape(tokens, (-1, 7)))
        return to_si(self.statistics.unnormalize(normalized), self.data)

    def fit(self, deltas):
        return fit(deltas, self.settings, self.period, position_m=self.place,
                   previous=self.before)


seeds, chunks = st.integers(0, 2**20), st.integers(1, 3)


@given(seeds, chunks, st.sampled_from([0.0, 1.0, 1e3]))
@settings(max_examples=60, deadline=None)
def test_no_checkpoint_says_an_action_outside_the_envelope(seed, chunk, slope):
    world = World(seed, chunk)
    # Random logits, and such that want the ends of the range.
    logits = world.random.normal(size=(world.space.length, 256))
    logits += slope * world.random.choice([-1, 1], (len(logits), 1)) * np.arange(256)
    said = world.si(world.say(logits))
    assert world.fit(said).limited_by == ()


@given(seeds, chunks)
@settings(max_examples=60, deadline=None)
def test_of_an_action_that_fits_no_bin_is_forbidden(seed, chunk):
    world = World(seed, chunk)
    wish = world.random.normal(0, [0.01] * 3 + [0.05] * 3 + [1], (chunk, 7))
    wish = 0.9 * world.fit(wish).deltas  # not on the border: a completion is rounded to bins
    units = [world.data.translation_scale_m] * 3 + [world.data.rotation_scale_rad] * 3 + [1]
    tokens = TOKENIZER.encode(world.statistics.normalize(wish / units)).ravel().tolist()
    if world.fit(world.si(tokens)).limited_by or world.fit(world.si(tokens) * 1.05).limited_by:
        return
    allowed = world.allowed([tokens[:known] for known in range(len(tokens))])
    columns = torch.tensor(tokens) - TOKENIZER.first_id
    assert allowed[torch.arange(len(tokens)), columns].all()


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_of_the_last_axis_exactly_the_bins_are_allowed_that_fit_leaves_alone(seed):
    """A vector that is complete leaves nothing to choose: `fit` alone says what is inside."""
    world, first = World(seed), TOKENIZER.first_id
    said = [first + int(it) for it in world.random.normal(128, 30, 5).clip(0, 255)]
    for known in (2, 5):  # z, and the last angle
        rest = [first + 128] * (6 - known)
        ends = [world.si([*said[:known], first + column, *rest]) for column in range(256)]
        of_it = {2: ('workspace', 'step_translation_m', 'speed_m_s', 'acceleration_m_s2'),
                 5: ('step_rotation_rad', 'turn_rate_rad_s', 'turn_acceleration_rad_s2')}[known]
        fits, fits_with_room = (
            np.array([not set(of_it) & set(world.fit(end * share).limited_by) for end in ends])
            for share in (1.0, 1.001))
        allowed = world.allowed([said[:known]])[0].numpy()
        if known == 2 and world.place is not None:
            fits_with_room &= fits  # towards a wall behind it, more is not less
        if fits_with_room.any():  # else only the bin nearest to no motion is left
            assert not (allowed & ~fits).any()
            assert not (fits_with_room & ~allowed).any()


def limits_of(world):
    return step_limits(world.settings, world.period, position_m=world.place, previous=world.before)


@given(seeds, st.floats(0.0, 1.0))
@settings(max_examples=100, deadline=None)
def test_of_free_bins_the_guard_forbids_none_behind_any_prefix(seed, speed):
    world = World(seed)
    if world.before is not None:
        world.before = world.before * speed
    ends = np.array(free_bins(limits_of(world), world.bins))
    for part in ([0, 1, 2], [3, 4, 5], [6]):
        low, high = ends[part].T
        if (low > high).any():
            continue
        # Corners, where the limits are, and between.
        corners = world.random.integers(0, 2, (20, len(part)))
        bins = np.concatenate((np.where(corners, low, high),
                               world.random.integers(low, high + 1, (20, len(part)))))
        said = np.full((len(bins), 7), 128)
        said[:, part] = bins
        tokens = TOKENIZER.last_id - said
        for place in part:
            allowed = world.allowed(tokens[:, :place].tolist())
            columns = torch.tensor(tokens[:, place]) - TOKENIZER.first_id
            assert allowed[torch.arange(len(bins)), columns].all(), (part, place)


def test_an_arm_at_rest_and_one_under_way_have_free_bins():
    world = World(2)
    lines = np.linspace(-1, 1, 255)[:, None] * ([0.04] * 3 + [0.1] * 3)
    world.bins = BinValues.of(lines, 'rotation_vector')
    world.settings, world.place = ARM, np.array([0.5, 0.0, 0.3])
    for before in (None, np.array([0.01, 0.002, -0.004, 0.0, 0.01, 0.0, 1.0])):
        world.before = before
        free = free_bins(limits_of(world), world.bins)
        assert all(high - low >= 4 for low, high in free), free
    world.place = np.array([0.9, 0.0, 0.3])  # behind a wall
    assert free_bins(limits_of(world), world.bins)[0] == (1, 0)


def test_what_is_left_for_y_depends_on_x():
    world = World(0)
    world.settings = replace(world.settings, step_translation_m=0.01, speed_m_s=math.inf,
                             acceleration_m_s2=math.inf)
    world.place = world.before = None
    few = [int(world.allowed([[token]]).sum()) for token in (44 + 128, 44 + 255)]
    assert few[0] > few[1] > 0


@pytest.mark.parametrize('acceleration', [1e-3, 0.1, 0.5, 1.0, 3.0])
def test_an_arm_at_rest_gets_under_way_however_fine_the_envelope(acceleration):
    world = World(2)
    world.settings = replace(ARM, acceleration_m_s2=acceleration, workspace_min_m=(-9.0,) * 3,
                             workspace_max_m=(9.0,) * 3)
    wish = np.zeros((7, 256))
    wish[0] -= np.arange(256)  # always as far along x as it can
    wish[1:] -= abs(np.arange(256) - 128)
    world.before, ways = None, []
    for _ in range(60):
        world.before = world.fit(world.si(world.say(wish))).deltas[0]
        ways.append(world.before[0])
    assert sum(ways) >= 0.5 * min(acceleration * 0.05**2 * 60**2 / 4, 0.3)


def test_with_no_bin_inside_the_nearest_to_no_motion_is_left_and_fit_takes_the_rest():
    world = World(2)
    world.statistics = replace(
        world.statistics, q01=np.array([0.5] * 7), q99=np.array([1.0] * 7))  # never slow
    world.bins = bin_values(world.statistics, world.data, TOKENIZER)
    world.settings = replace(ARM, acceleration_m_s2=0.8)
    world.place, world.before = np.array([0.75, 0.0, 0.3]), None  # at a wall as well
    logits = world.random.normal(size=(7, 256))
    tokens = world.say(logits)
    assert np.isin(TOKENIZER.bins(np.array(tokens[:3])), 0).all()
    assert np.isfinite(world.fit(world.si(tokens)).deltas).all()


@pytest.mark.parametrize('place', [(math.nan, 0, 0), (9.0, 9.0, 9.0), (math.inf, 0, 0)])
@pytest.mark.parametrize('statistics', ['constant', 'zero', 'unscaled', 'huge'])
def test_there_is_a_bin_and_no_nan_whatever_the_statistics(place, statistics):
    world = World(7)
    low, high = {'constant': (0.3, 0.3), 'zero': (0.0, 0.0), 'unscaled': (-1, 1),
                 'huge': (-1e30, 1e30)}[statistics]
    world.statistics = ActionStatistics(
        np.full(7, low), np.full(7, high), np.full(7, statistics != 'unscaled'))
    world.bins = bin_values(world.statistics, world.data, TOKENIZER)
    world.place = np.array(place)
    assert not world.state()[-10:].isnan().any()
    assert len(world.say(world.random.normal(size=(7, 256)))) == 7


def test_without_limits_everything_is_allowed_and_the_guard_is_not_asked():
    world = World(4)
    assert not can_forbid(NO_LIMITS, world.bins)
    assert can_forbid(step_limits(ARM, 0.05), world.bins)
    numbers = guard_numbers(NO_LIMITS, world.bins, 1)
    state = torch.tensor(Situation(limits=numbers).numbers(7), dtype=torch.float64)
    assert world.guard.allowed(torch.full((1, 7), -1), torch.tensor([0]), state, world.space).all()
