"""What may happen in the middle of a chunk: bad images, jumps of stamps, changes of settings."""
from dataclasses import replace
import math

import numpy as np
import pytest

from specvla_ros.safety_settings import SafetySettings
from test.nodes.policy_node.made_up_world import START, World

T = 0.05
WIDE = replace(SafetySettings.read('safety_arm'),
               workspace_min_m=(-9.0,) * 3, workspace_max_m=(9.0,) * 3)
STEP = np.array([0.004, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
CHUNK = np.repeat(STEP[None], 16, axis=0)


@pytest.fixture
def make_world():
    """Give a function that makes a world whose camera sends at 20 Hz for so long, s."""
    def make_world(seconds, **settings):
        world = World(WIDE, T, **{'max_age': 0.5, 'execute_steps': 4, **settings})
        world.say('pick up')
        world.camera = lambda begin, end, action=CHUNK, **image: [
            world.at(begin + number * T, lambda: world.see(action, **image))
            for number in range(round((end - begin) / T))]
        world.camera(0.1, seconds)
        return world
    return make_world


def times(world):
    """Return when steps were published, s from the start."""
    return [step.at - START for step in world.published]


def check_order(world):
    """Check that no step came twice, none out of order, and no two within a period."""
    steps = [(step.image.order, step.number) for step in world.published]
    assert steps == sorted(set(steps))
    assert min(np.diff(times(world))) >= T - 1e-9


@pytest.mark.parametrize('bad', ['grey', 'stale', 'nan', 'ahead'])
def test_a_bad_image_ends_a_chunk_while_the_camera_goes_on(make_world, bad):
    """The camera is not lost: what ends the chunk is the image itself."""
    world, broken = make_world(0.6), CHUNK.copy()
    broken[15, 0] = math.nan
    world.camera(0.6, 2.0, **{
        'grey': dict(action=None, infer=0.0), 'nan': dict(action=broken, infer=0.0),
        'stale': dict(age=0.6), 'ahead': dict(age=-0.6)}[bad])
    world.camera(2.0, 3.0)
    world.run(3.2)
    before = [time for time in times(world) if time < 2.0]
    # The first of them is taken for the next answer, at the latest 4 periods later.
    assert 0.55 < max(before) < 0.6 + 4 * T
    assert not any('camera is lost' in text for text in world.refusals)
    assert max(times(world)) > 2.9  # it goes on
    check_order(world)


@pytest.mark.parametrize('jump, goes_on', [
    (-0.2, True), (-0.45, True), (0.2, True), (-3600.0, False), (3600.0, False)])
def test_stamps_that_jump_in_the_middle_of_a_chunk(make_world, jump, goes_on):
    """The camera's clock is set once, and set right a second later."""
    world = make_world(1.02, max_age=2.0)
    world.camera(1.02, 2.02, age=-jump)
    world.camera(2.02, 3.0)
    world.run(3.2)
    check_order(world)
    during = [time for time in times(world) if 1.3 < time < 2.0]
    assert len(during) >= 0.6 * 0.7 / T if goes_on else not during
    # An image that seems older than the one before it counts as taken after it.
    soon = [step for step in world.published if step.at - START < 1.02 + 6 * T
            and step.image.came - START > 1.02]
    assert bool(soon) == goes_on
    assert len([time for time in times(world) if time > 2.4]) >= 10
    assert any('was set back by' in text for text in world.refusals)  # then or back again


def test_a_tighter_envelope_holds_from_the_next_step_of_a_chunk_on(make_world):
    world = make_world(0.2, execute_steps=16)
    world.camera(0.2, 1.0, action=None, infer=9.0)  # the chunk goes on: the next answer is late
    tight = replace(WIDE, step_translation_m=0.001)
    world.at(0.42, lambda: world.set_safety(tight))
    world.run(0.7)
    said = {step.image.number for step in world.published if step.at - START > 0.3}
    assert len(said) == 1  # all of one chunk
    wide, narrow = ({round(float(np.linalg.norm(step.delta[:3])), 9) for step in world.published
                     if (step.at - START > 0.42) == after} for after in (False, True))
    assert max(wide) == 0.004 and narrow == {0.001}
    check_order(world)


def test_another_decoder_in_the_middle_of_a_chunk_neither_ends_nor_repeats_it(make_world):
    world, used = make_world(2.0), []
    take = world.pilot.take

    def noted():
        if (inference := take()) is not None:
            used.append((world.now - START, inference.request.policy))
        return inference

    world.pilot.take = noted
    world.at(1.03, lambda: world.pilot.set_policy('another'))
    world.run(2.0)
    check_order(world)
    assert {policy for time, policy in used if time < 1.03} == {'settings'}
    assert {policy for time, policy in used if time > 1.03} == {'another'}
    steady = [time for time in times(world) if time > 0.5]
    assert max(np.diff(steady)) < 1.2 * T


@pytest.mark.parametrize('late', [-1e-6, 0.0, 1e-6, T / 2])
def test_an_answer_that_comes_when_the_last_step_of_the_one_before_is_due(make_world, late):
    """It takes the place of that step, or comes a period after it; never both in one period."""
    world, last = make_world(0.1, execute_steps=1), 0.1 + 3 * T
    world.at(0.1, lambda: world.see(CHUNK[:4], infer=0.0))
    world.at(0.147, lambda: world.see(CHUNK[:4], infer=last + late - 0.147))
    world.camera(0.17, 0.4, infer=9.0)  # it runs
    world.run(last + 2 * T)
    check_order(world)
    steps = {round(time / T): (step.image.number, step.number)
             for time, step in zip(times(world), world.published, strict=True)}
    assert [steps[2], steps[3], steps[4]] == [(1, 0), (1, 1), (1, 2)]
    assert steps[5] in ([(2, 2), (1, 3)] if late == 0 else [(1, 3)] if late > 0 else [(2, 2)])
    assert steps[6] == (2, 3)


@pytest.mark.parametrize('latency, execute_steps', [(4, 4), (6, 1), (40, 4)])
def test_in_lockstep_a_latency_beyond_the_chunk_leaves_its_last_step_from_rest(
        make_world, latency, execute_steps):
    world = make_world(0.1, pacing='lockstep', latency=latency, execute_steps=execute_steps)
    for number in range(5):
        world.at(0.1 + number * 0.1, lambda: world.see(10 * CHUNK[:4], infer=0.001))
    world.run(1.0)
    assert [step.number for step in world.published] == [3] * 5
    assert [np.linalg.norm(step.delta[:3]) for step in world.published] == pytest.approx(
        [WIDE.acceleration_m_s2 * T**2] * 5)
