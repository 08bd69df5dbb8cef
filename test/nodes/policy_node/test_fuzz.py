"""
Made-up observations through all of a node's logic but DDS: nothing unsafe comes out.

Images, stamps, poses, instructions, answers, envelopes and clocks, right ones and what can't be:
NaN, stamps from anywhere, copies, arrays of any shape. Each published step is checked in
`made_up_world`. SPECVLA_FUZZ says how many observations; `make fuzz` takes a million. Chunks, half
as many, have worlds of their own in which more happens that ends them.
"""
from collections import Counter
from dataclasses import replace
import math
import os

import numpy as np
import pytest

from specvla_ros.safety_settings import FALLBACKS, SafetySettings
from test.nodes.policy_node.made_up_world import START, World

OBSERVATIONS = int(os.environ.get('SPECVLA_FUZZ', '20000'))
PER_WORLD = 1000
SECOND = 10**9
PERIODS = (0.05, 0.2, 1 / 3)
ENVELOPES = [SafetySettings.read(name) for name in ('safety', 'safety_arm')]
NO_NUMBERS = (math.nan, math.inf, -math.inf)
RATES = (3, 15, 20, 30, 60, 500)  # Hz
CHUNKS = min(OBSERVATIONS // 2, 100_000)


class Fuzz:
    """Has things happen in a world until there were enough observations."""

    chunks, rates, keeps_firm = (1, 1, 8), RATES, False
    shares = 0.75, 0.15, 0.04, 0.03, 0.02  # of what happens, in the order of `run`

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.counts = Counter()
        self.chunk = int(self.random.choice(self.chunks))
        self.world = World(
            self.envelope(), PERIODS[self.random.integers(3)],
            max_age=float(self.random.choice([0.0, 0.3, 5.0])),
            pacing='lockstep' if self.chance(0.1) else 'realtime',
            late=float(self.random.choice([0.0, 0.001, 0.02])),
            execute_steps=int(self.random.integers(1, self.chunk + 1)),
            latency=int(self.random.integers(0, 12)), keeps_firm=self.keeps_firm)
        self.envelopes = [self.world.safety]
        self.rate = self.random.choice(self.rates)
        self.infer = self.random.choice([0.001, 0.015, 0.12, 0.4])
        self.sent = []

    def chance(self, share):
        return self.random.random() < share

    def run(self, count):
        time = 0.0
        self.world.say('pick up')
        happenings = (self.see, self.hear_position, self.say, self.pause, self.change, self.jump)
        shares = np.cumsum(self.shares)
        while self.counts['observations'] < count:
            time += self.random.exponential(1 / self.rate) if self.chance(0.98) else 2.0
            what = happenings[int(np.searchsorted(shares, self.random.random()))]
            self.world.run(time)
            what()
            if self.chance(0.2):
                self.world.pilot.watch()
        self.world.run(time + 3.0)
        self.counts['published'] += len(self.world.published)
        self.counts['refused'] += len(self.world.refusals)
        self.counts['inferred'] += self.world.n_inferences
        self.counts['chunks'] += len({step.image.order for step in self.world.published})

    def observe(self, kind):
        self.counts['observations'] += 1
        self.counts[kind] += 1

    def see(self):
        self.observe('images')
        if self.sent and self.chance(0.05):
            self.world.resend(self.sent[self.random.integers(len(self.sent))])
            return
        infer = self.random.exponential(self.infer)
        image = self.world.see(self.action(), infer=infer, stamp=self.stamp())
        if image.stamp:
            self.sent = [*self.sent[-19:], image]

    def stamp(self):
        now, kind = self.world.camera_clock(), self.random.random()
        if kind < 0.8:
            return now - int(self.random.exponential(0.03) * SECOND)
        if kind < 0.85:
            return 0
        if kind < 0.9:
            return now + int(self.random.normal(scale=10.0) * SECOND)
        if kind < 0.95 and self.sent:
            return self.sent[-1].stamp
        return int(self.random.integers(-2**62, 2**62))

    def action(self):
        kind = self.random.random()
        if kind < 0.02:
            return None
        if kind < 0.04:
            return np.zeros(self.random.integers(0, 9, self.random.integers(0, 4)))
        scale = self.random.choice([0.001, 0.02, 0.05, 1.0, 1e30])
        action = self.random.normal(scale=scale, size=(self.chunk, 7))
        if kind < 0.08:
            action[tuple(self.random.integers(action.shape))] = self.random.choice(NO_NUMBERS)
        return action.astype(np.float32)

    def hear_position(self):
        self.observe('poses')
        position = self.random.uniform((0.2, -0.5, -0.1), (0.8, 0.5, 0.8))
        if self.chance(0.1):
            position[self.random.integers(3)] = self.random.choice([*NO_NUMBERS, 1e300, -5.0])
        self.world.hear_position(position)

    def say(self):
        self.observe('instructions')
        self.world.say(str(self.random.choice(['', 'pick up', 'put down', 'x' * 10000])))
        if not self.world.instruction and self.chance(0.5):
            self.world.pilot.come_to_rest()

    def pause(self):
        self.world.resume() if self.world.is_paused or self.chance(0.3) else self.world.pause()

    def change(self):
        self.world.set_safety(self.envelope())
        self.envelopes.append(self.world.safety)
        self.world.pilot.set_policy(f'decoder {len(self.envelopes)}')

    def jump(self):
        """Set the clock that images are stamped by."""
        self.world.offset += int(self.random.choice([-3600.0, -0.2, 0.2, 3600.0]) * SECOND)

    def envelope(self):
        return replace(ENVELOPES[self.random.integers(2)],
                       fallback=str(self.random.choice(FALLBACKS)),
                       deadline_periods=float(self.random.choice([1.5, 4, 10, math.inf])))


def check_speed(world, envelopes):
    """Check the way over times of a period and more, each step executed in the one after it."""
    at = np.array([step.at for step in world.published])
    for part, name in ((slice(0, 3), 'speed_m_s'), (slice(3, 6), 'turn_rate_rad_s')):
        most = max(getattr(envelope, name) for envelope in envelopes)
        lengths = np.array([np.linalg.norm(step.delta[part]) for step in world.published])
        times = np.column_stack([at, at + world.period]).ravel()
        assert (np.diff(times) >= -1e-9).all()
        way = np.column_stack([lengths * 0, lengths]).ravel().cumsum()
        for span in (world.period, 1.7 * world.period, 1.0, 10.0):
            begins = np.concatenate([times, times - span])
            gone = np.interp(begins + span, times, way) - np.interp(begins, times, way)
            assert gone.max() <= most * span * (1 + 1e-6)


def test_nothing_stale_repeated_not_finite_or_too_much_in_time_is_published():
    counts, told = Counter(), 0
    for seed in range(math.ceil(OBSERVATIONS / PER_WORLD)):
        fuzz = Fuzz(seed)
        try:
            fuzz.run(PER_WORLD)
            if fuzz.world.is_paced and fuzz.world.published:
                check_speed(fuzz.world, fuzz.envelopes)
        except AssertionError as error:
            at = fuzz.world.now - START
            pytest.fail(f'seed {seed}, after {at:.6f} s: {error or error.__traceback__.tb_next}')
        counts += fuzz.counts
        if counts['observations'] >= told + 50_000:
            told = counts['observations']
            print(dict(counts), flush=True)
    print(dict(counts))
    assert counts['observations'] >= OBSERVATIONS
    assert counts['published'] > 0.02 * OBSERVATIONS  # there was something to find
    assert counts['refused'] > 0.02 * OBSERVATIONS


class ChunkFuzz(Fuzz):
    """Answers of several steps, from cameras that lose images, under instructions that change."""

    chunks, rates = (2, 3, 8, 16), (3, 10, 20, 30)
    shares = 0.86, 0.02, 0.05, 0.05, 0.01


class FirmFuzz(ChunkFuzz):
    """The same under thresholds that grow by step: only firm steps are executed."""

    keeps_firm = True


def test_no_step_of_a_chunk_comes_twice_out_of_order_or_after_its_end():
    """What each step is held against stands in `World._check`."""
    counts, seed = Counter(), 10**6
    while counts['chunks'] < CHUNKS:
        fuzz = (FirmFuzz if seed % 4 == 0 else ChunkFuzz)(seed)
        fuzz.run(PER_WORLD)
        counts += fuzz.counts
        counts['ends'] += fuzz.world.ends
        seed += 1
    print(dict(counts))
    assert counts['published'] > 1.5 * CHUNKS  # more than the first step of each
    assert counts['ends'] > 0.1 * CHUNKS
