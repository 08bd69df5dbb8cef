"""What `Pilot` promises over time, in worlds with a clock of their own; no ROS."""
from dataclasses import replace
from itertools import groupby
import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from specvla_ros.safety_settings import SafetySettings
from test.nodes.policy_node.made_up_world import EPSILON, faster, START, World

T = 0.05
ARM = SafetySettings.read('safety_arm')
WALLS = dict(workspace_min_m=(-9.0,) * 3, workspace_max_m=(9.0,) * 3)
FAST = np.array([[0.05, 0.05, 0.05, 0.5, 0.5, 0.5, 1.0]])  # LIBERO's full scale


@pytest.fixture
def world():
    world = World(ARM, T)
    world.say('pick up')
    return world


def film(world, rate, seconds, begin=0.0, action=FAST, **image):
    """Have a camera send images."""
    for number in range(round(rate * seconds)):
        world.at(begin + number / rate, lambda: world.see(action, **image))


def path(published, period):
    """
    Return times, and the way [m, rad] until each: a step is executed over the period after it.
    """
    times = sorted({time for step in published for time in (step.at, step.at + period)})
    ways = np.zeros((len(times), 2))
    for step in published:
        share = np.clip((np.array(times) - step.at) / period, 0.0, 1.0)
        lengths = [np.linalg.norm(step.delta[part]) for part in (slice(0, 3), slice(3, 6))]
        ways += share[:, None] * lengths
    return np.array(times), ways


def check_speed(published, period, limits):
    """Check that over any time of a period and more the arm is never faster than it may be."""
    times, ways = path(published, period)
    spans = times[None] - times[:, None]
    i, j = np.nonzero(spans >= period - EPSILON)
    speeds = (ways[j] - ways[i]) / spans[i, j][:, None]
    assert (speeds <= np.array([limits.speed_m_s, limits.turn_rate_rad_s]) * (1 + 1e-6)).all()


def check_acceleration(published, period, limits):
    """Check how fast the velocity changes from step to step, by the time between them."""
    for before, step in zip(published, published[1:]):
        passed = min(step.at - before.at, period)
        at_rest = step.at - before.at > limits.deadline_periods * period
        for part, most in ((slice(0, 3), limits.acceleration_m_s2),
                           (slice(3, 6), limits.turn_acceleration_rad_s2)):
            old = np.zeros(3) if at_rest else before.delta[part] / period
            assert faster(step.delta[part] / period, old) <= most * passed * (1 + 1e-6) + 1e-9


def test_a_camera_of_60_hz_and_a_policy_of_15_ms_give_20_steps_a_second_inside_the_envelope(world):
    film(world, 60, 2.97)
    world.run(3.0)
    assert 57 <= len(world.published) <= 60
    assert world.n_inferences <= len(world.published) + 1  # none for the bin
    ages = [step.at - step.image.came for step in world.published]
    assert max(ages) <= 0.015 + 1 / 60 + T / 2  # the newest there is
    check_speed(world.published, T, ARM)
    check_acceleration(world.published, T, ARM)
    way = sum(np.linalg.norm(step.delta[:3]) for step in world.published)
    assert 0.3 < way / 3.0 < 0.4


@pytest.mark.parametrize('rate, infer, least', [
    (20, 0.015, 19), (25, 0.015, 17), (30, 0.015, 18), (60, 0.04, 18), (500, 0.001, 19),
    (20, 0.12, 7.5), (10, 0.015, 9.5)])
def test_the_pace_is_kept_whatever_the_camera_s_rate(world, rate, infer, least):
    film(world, rate, 5.0, infer=infer)
    world.run(5.0)
    assert least <= len(world.published) / 5.0 <= 20.2


def test_an_image_that_comes_too_soon_waits_and_a_newer_one_takes_its_place(world):
    images = []
    for at in (0.1, 0.12, 0.125, 0.13):
        world.at(at, lambda: images.append(world.see(FAST, infer=0.0)))
    world.run(1.0)
    first, second = world.published
    assert (first.image, second.image) == (images[0], images[3])
    assert first.at == pytest.approx(START + 0.1)
    assert START + 0.15 <= second.at <= START + 0.2
    assert world.n_inferences == 2


def test_images_are_fresh_again_after_a_step_that_was_late(world):
    film(world, 20, 1.0, begin=0.1)
    world.at(1.1, lambda: world.see(FAST, infer=0.045))  # as long as it may take
    film(world, 20, 2.0, begin=1.15)
    world.run(3.0)
    ages = [step.at - step.image.came for step in world.published]
    assert max(ages) == pytest.approx(0.045)
    assert max(ages[-10:]) == pytest.approx(0.015)


@pytest.mark.parametrize('ahead', [0.0, 1.0, 0.05])
def test_stamps_do_not_set_the_pace(ahead):
    """A camera that says that its images are a control period, or a second, apart; or nothing."""
    world = World(ARM, T, max_age=0.0)
    world.say('pick up')
    for number in range(200):
        stamp = 10**15 + round(number * ahead * 1e9) if ahead else 0
        world.at(number / 100, lambda stamp=stamp: world.see(FAST, stamp=stamp, infer=0.005))
    world.run(2.0)
    assert len(world.published) <= 40
    check_speed(world.published, T, ARM)


def test_in_lockstep_every_image_is_acted_on_at_once_with_all_its_steps():
    world = World(replace(ARM, **WALLS), T, pacing='lockstep')
    world.say('pick up')
    film(world, 200, 1.0, action=np.repeat(FAST, 3, axis=0), infer=0.001)
    world.run(1.0)
    assert len(world.published) == 3 * 200
    assert all(step.at - step.image.came == pytest.approx(0.001) for step in world.published)


def test_at_3_hz_a_step_a_third_of_a_second_after_another_is_not_late():
    period = 1 / 3
    world = World(replace(ARM, **WALLS), period)
    world.say('pick up')
    film(world, 3, 4.0, action=FAST * 0.2)
    for number in range(1, 14):
        world.at(number * period, lambda: world.pilot.watch())
    world.run(4.5)
    lengths = [np.linalg.norm(step.delta[:3]) for step in world.published]
    assert len(lengths) >= 11
    assert lengths[0] == pytest.approx(0.0173, abs=1e-3)
    assert world.stills == []
    assert world.pilot.deadline == pytest.approx(4 / 3)


def test_a_chunk_is_executed_over_time_and_ends_at_once():
    world = World(replace(ARM, **WALLS), T)
    world.say('pick up')
    world.at(0.1, lambda: world.see(np.repeat(FAST, 8, axis=0), infer=0.06))
    world.at(0.33, lambda: world.say('put down'))
    world.run(2.0)
    assert [step.number for step in world.published] == [1, 2, 3, 4]  # step 0 was missed
    assert np.diff([step.at for step in world.published]) == pytest.approx([T] * 3, abs=0.02)
    assert max(step.at for step in world.published) < START + 0.33


def test_the_newer_chunk_takes_over():
    world = World(replace(ARM, **WALLS), T, execute_steps=1)
    world.say('pick up')
    film(world, 10, 1.0, begin=0.1, action=np.repeat(FAST, 8, axis=0), infer=0.06)
    world.run(1.05)
    assert len(world.published) >= 17
    assert len({step.image.number for step in world.published}) >= 8
    check_acceleration(world.published, T, ARM)


def runs(published):
    """Return the numbers of the steps that each answer gave, one list an answer."""
    return [[step.number for step in steps] for _, steps in groupby(
        published, key=lambda step: step.image.number)]


@pytest.mark.parametrize('rate', [18, 22, 38, 60])
@pytest.mark.parametrize('execute_steps, infer', [(4, 0.005), (4, 0.12), (2, 0.08), (8, 0.12)])
def test_so_many_steps_of_an_answer_are_executed_and_the_next_one_is_there(
        execute_steps, infer, rate):
    """No period is without a step, and inference is not asked more often than need be."""
    world = World(replace(ARM, **WALLS), T, execute_steps=execute_steps)
    world.say('pick up')
    film(world, rate, 6.0, begin=0.1, action=np.repeat(FAST, 8, axis=0), infer=infer)
    world.run(6.1)
    *steady, _ = runs(world.published)[2:]
    missed = int(infer / T)
    for numbers in steady:
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert 0 <= numbers[0] - missed <= 2  # the image may be a camera's period old
    counts = [len(numbers) for numbers in steady]
    wanted = min(execute_steps, 8 - missed)
    # A camera about as fast as the control period: it waits for a fresh image.
    assert wanted - 0.8 < np.mean(counts) < wanted + (0.35 if rate > 30 else 1.01)
    times = [step.at for step in world.published]
    assert np.diff(times[8:]).max() < 1.2 * T  # never stop and go
    check_acceleration(world.published, T, ARM)
    check_speed(world.published, T, ARM)


def test_where_the_next_answer_is_late_steps_beyond_go_on_until_it_comes():
    world = World(replace(ARM, **WALLS), T, execute_steps=2)
    world.say('pick up')
    action = np.repeat(FAST, 8, axis=0)
    film(world, 20, 0.19, begin=0.1, action=action, infer=0.01)
    film(world, 20, 0.6, begin=0.3, action=action, infer=0.26)  # it was expected in 10 ms
    world.run(1.0)
    beyond = [numbers for numbers in runs(world.published) if len(numbers) > 2]
    assert beyond and beyond[0][:5] == [1, 2, 3, 4, 5]
    assert np.diff([step.at for step in world.published][:8]).max() < 1.2 * T


def test_a_step_that_was_to_be_said_again_is_never_executed_however_late_the_next_answer_is():
    world = World(replace(ARM, **WALLS), T, execute_steps=2, keeps_firm=True)
    world.say('pick up')
    action = np.repeat(FAST, 8, axis=0)
    film(world, 20, 1.0, begin=0.1, action=action, infer=0.01)
    film(world, 20, 2.0, begin=1.1, action=action, infer=0.3)  # it was expected in 10 ms
    world.run(4.0)
    assert len(world.published) > 20
    assert all(step.number < step.firm for step in world.published if step.firm is not None)
    firm = {step.firm for step in world.published}
    assert {None, 3} <= firm  # 10 ms: none is missed, one more for the jitter
    assert max(firm - {None}) >= 12  # 0.3 s, and as long until the next answer
    # What was to take 10 ms and took 0.3 s comes too late for its steps: the arm waits.
    assert not [step for step in world.published if 1.27 < step.at - START < 1.7]
    assert [step for step in world.published if step.at - START > 1.9]


@pytest.mark.parametrize('rate', [10, 20, 60])
def test_a_lost_camera_ends_a_chunk_before_its_steps_do(rate):
    world = World(replace(ARM, **WALLS, deadline_periods=10.0), T)
    world.say('pick up')
    film(world, rate, 1.0, begin=0.1, action=np.repeat(FAST, 16, axis=0), infer=0.02)
    world.run(3.0)
    lost = 0.1 + (rate - 1) / rate  # the last image came
    allowed = 2.5 * max(T, 1 / rate)
    last = world.published[-1]
    assert last.number < 15 and last.at - START <= lost + allowed + 1e-9
    assert world.stills and world.stills[0] - START <= lost + allowed + T
    assert 'no new image for more than' in world.pilot.watch()
    world.at(3.1, lambda: world.see(FAST))
    world.run(3.3)
    assert world.published[-1].at > START + 3.0 and not world.pilot.fault


def test_one_image_that_gets_lost_ends_no_chunk():
    world = World(replace(ARM, **WALLS), T, execute_steps=4)
    world.say('pick up')
    for number in range(60):
        if number % 7:
            world.at(0.1 + number * T, lambda: world.see(np.repeat(FAST, 8, axis=0)))
    world.run(3.1)
    assert np.diff([step.at for step in world.published]).max() < 1.2 * T
    assert not world.stills


@pytest.mark.parametrize('copies', [True, False])
def test_copies_of_an_image_keep_no_chunk_alive(copies):
    world = World(replace(ARM, **WALLS), T)
    world.say('pick up')
    film(world, 20, 0.2, begin=0.1, action=np.repeat(FAST, 16, axis=0))
    image = []
    world.at(0.31, lambda: image.append(world.see(np.repeat(FAST, 16, axis=0))))
    for number in range(1, 40 * copies):
        world.at(0.31 + number * T / 2, lambda: world.resend(image[0]))
    world.run(3.0)
    assert world.published[-1].at <= START + 0.31 + 0.275 + 1e-9  # the longest interval: 0.11 s


@pytest.mark.parametrize('what', ['pause', 'say', 'withdraw', 'grey', 'stale', 'nan'])
def test_what_ends_a_chunk_ends_it_at_once(what):
    world = World(replace(ARM, **WALLS), T, max_age=0.5)
    world.say('pick up')
    chunk = np.repeat(FAST, 16, axis=0)
    film(world, 20, 0.5, begin=0.1, action=chunk)
    bad = chunk.copy()
    bad[15, 0] = math.nan
    world.at(0.6, {
        'pause': world.pause, 'say': lambda: world.say('put down'),
        'withdraw': lambda: world.say(''), 'stale': lambda: world.see(chunk, age=0.6),
        'grey': lambda: world.see(None, infer=0.0), 'nan': lambda: world.see(bad, infer=0.0),
    }[what])
    world.run(3.0)
    # An image is looked at when the next answer is wanted; then what it says holds at once.
    end = START + (0.6 if what in ('pause', 'say', 'withdraw') else 0.86)
    after = [step.number for step in world.published if step.at > end]
    assert len(world.published) > 5
    # Under another instruction the image that is there is acted on again, from where it is by now.
    assert (after != []) == (what == 'say')


def test_in_lockstep_with_a_latency_the_steps_that_are_over_are_skipped():
    world = World(replace(ARM, **WALLS), T, pacing='lockstep', execute_steps=4, latency=2)
    world.say('pick up')
    film(world, 10, 1.0, action=np.repeat(FAST, 8, axis=0), infer=0.001)
    world.run(1.0)
    assert runs(world.published) == [[2, 3, 4, 5]] * 10


def test_a_chunk_of_which_a_later_step_is_not_finite_is_refused_as_a_whole(world):
    chunk = np.repeat(FAST, 4, axis=0)
    chunk[3, 2] = math.nan
    world.at(0.1, lambda: world.see(chunk))
    world.run(1.0)
    assert world.published == [] and 'is not finite' in world.refusals[0]


@pytest.mark.parametrize('shape', [(7,), (0, 7), (1, 6), (1, 1, 7)])
def test_what_is_no_action_is_refused_and_the_next_one_is_not(world, shape):
    world.at(0.1, lambda: world.see(np.zeros(shape)))
    world.at(0.3, lambda: world.see(FAST))
    world.run(1.0)
    assert len(world.published) == 1 and 'must be [control steps, 7]' in world.refusals[0]


def test_a_position_heard_once_keeps_several_steps_from_leading_through_a_wall(world):
    world.at(0.1, lambda: world.hear_position(np.array([0.74, 0.0, 0.3])))
    for number in range(4):  # 10 mm are left, each step alone is no more
        world.at(0.11 + number * T, lambda: world.see(FAST * [1, 0, 0, 0, 0, 0, 1]))
    world.run(0.3)
    assert len(world.published) >= 3
    assert sum(step.delta[0] for step in world.published) <= 0.01 + 1e-9


def test_a_copy_that_comes_after_a_clock_was_set_back_is_not_acted_on_again(world):
    images = []
    for at in (0.1, 0.3):
        world.at(at, lambda: images.append(world.see(FAST)))
    world.at(0.5, lambda: world.see(FAST, age=0.45))  # set back: ignored
    world.at(0.6, lambda: world.resend(images[0]))
    world.run(1.0)
    assert [step.image.number for step in world.published] == [1, 2]
    assert 'was set back by' in world.refusals[0]


@pytest.mark.parametrize('stamp', [0, None])
def test_an_image_that_waited_too_long_for_an_instruction_is_stale(stamp):
    world = World(ARM, T, max_age=1.0)
    world.at(0.1, lambda: world.see(FAST, stamp=stamp))
    world.at(1.2, lambda: world.say('pick up'))
    world.run(2.0)
    assert world.published == [] and 'the image is 1.100 s old' in world.refusals[0]


def test_an_answer_that_took_too_long_is_stale():
    world = World(ARM, T, max_age=1.0)
    world.say('pick up')
    world.at(0.1, lambda: world.see(FAST, infer=0.7, age=0.4))
    world.run(2.0)
    assert world.published == [] and '0.700 s after inference began' in world.refusals[0]


def test_no_step_in_the_first_period_after_activation(world):
    """Whoever acted before may have published one just then."""
    world.at(0.001, lambda: world.see(FAST, infer=0.0))
    world.run(1.0)
    assert world.published[0].at >= START + T


def test_the_arm_starts_from_rest_after_a_missed_deadline_and_not_before():
    limits = replace(ARM, **WALLS)
    lengths = {}
    for pause in (3.5, 4.5):
        world = World(limits, T)
        world.say('pick up')
        film(world, 20, 1.0, begin=0.1, infer=0.0)
        world.run(1.1)
        last = world.published[-1].at - START
        film(world, 1, 1.0, begin=last + pause * T, infer=0.0)
        world.run(3.0)
        lengths[pause] = np.linalg.norm(world.published[-1].delta[:3])
    assert lengths[3.5] == pytest.approx(0.02)  # as fast as before, no faster for the pause
    assert lengths[4.5] == pytest.approx(ARM.acceleration_m_s2 * T**2)


gaps = st.one_of(st.floats(0, 0.02), st.floats(0, 0.4), st.sampled_from([0.0, T, 1 / 60]))
deltas = st.lists(st.lists(st.floats(-0.3, 0.3), min_size=7, max_size=7), min_size=1,
                  max_size=4).map(np.array)
images = st.tuples(st.just('image'), gaps, deltas, st.floats(0, 0.3), st.floats(0, 0.6),
                   st.booleans())
others = st.tuples(st.sampled_from(['pause', 'resume', 'say', 'withdraw', 'watch']), gaps)
positions = st.tuples(st.just('position'), gaps, st.lists(
    st.floats(-1, 1), min_size=3, max_size=3).map(np.array))


@given(st.lists(st.one_of(images, images, images, others, positions), max_size=60),
       st.sampled_from([T, 0.2, 1 / 3]), st.floats(0, 0.01))
def test_whatever_comes_when_the_arm_stays_inside_the_envelope(events, period, late):
    """Each step is checked in the world as it is published; here what they come to over time."""
    world, time = World(ARM, period, max_age=0.5, late=late), 0.0
    world.say('pick up')
    for what, gap, *more in events:
        time += gap
        if what == 'image':
            action, infer, age, is_stamped = more
            happens = lambda a=action, i=infer, g=age, s=is_stamped: world.see(  # noqa: E731
                a, infer=i, age=g, stamp=None if s else 0)
        elif what == 'position':
            happens = lambda p=more[0]: world.hear_position(p)  # noqa: E731
        else:
            happens = {
                'pause': world.pause, 'resume': world.resume, 'watch': world.pilot.watch,
                'say': lambda text=f'{time}': world.say(text),
                'withdraw': lambda: world.say('')}[what]
        world.at(time, happens)
    world.run(time + 3.0)
    check_speed(world.published, period, ARM)
    check_acceleration(world.published, period, ARM)


def test_an_arm_that_stands_still_starts_from_rest_also_with_a_longer_deadline(world):
    """The fallback held already; an envelope with a later deadline doesn't undo that."""
    film(world, 20, 0.5)
    for number in range(12, 18):
        world.at(number * T, lambda: world.pilot.watch())
    world.at(0.9, lambda: world.set_safety(replace(ARM, deadline_periods=100.0)))
    world.at(0.95, lambda: world.see(FAST))
    world.run(2.0)
    assert world.stills
    *_, before, last = world.published
    assert last.at - before.at > 0.3
    assert np.linalg.norm(before.delta[:3]) == pytest.approx(ARM.speed_m_s * T)
    assert np.linalg.norm(last.delta[:3]) <= ARM.acceleration_m_s2 * T**2 * (1 + 1e-9)


@pytest.mark.parametrize('max_age', [5.0, 0.0])
def test_a_camera_whose_clock_stands_still_is_a_fault_until_it_runs(max_age):
    world = World(ARM, T, max_age=max_age)
    world.say('pick up')
    stamp = world.camera_clock()
    for number in range(200):
        world.at(number / 30, lambda: world.see(FAST, stamp=stamp))
    world.run(200 / 30)
    assert world.n_inferences == 1
    assert len(world.refusals) > 150
    assert 'have the stamp 1700001000.000 s' in world.pilot.fault
    world.see(FAST)
    assert world.pilot.fault == '' or 'stamp' not in world.pilot.fault
    world.run(8.0)
    assert world.n_inferences == 2


def test_copies_of_an_image_that_come_soon_are_no_fault(world):
    for number in range(20):
        world.at(number / 10, lambda: world.see(FAST, stamp=0))
        world.at(number / 10 + 0.05, lambda: world.see(FAST, stamp=10**18))
    image = world.see(FAST)
    for number in range(9):
        world.at(0.1 * number, lambda: world.resend(image))
    world.run(0.9)
    assert not any('have the stamp' in text for text in world.refusals)


@pytest.mark.parametrize('pacing', ['realtime', 'lockstep'])
@pytest.mark.parametrize('infer', [0.03, 0.3, 2.0])
def test_walls_hold_however_long_ago_the_pose_was_heard(pacing, infer):
    """The policy is slower than the deadline, or the sensor falls silent after its first word."""
    world = World(ARM, T, pacing=pacing)
    world.say('pick up')
    wall = ARM.workspace_max_m[0]
    world.hear_position(np.array([wall - 0.003, 0.0, 0.3]))
    for number in range(10):
        world.at(0.1 + number * (infer + T), lambda: world.see(
            np.array([[0.002, 0, 0, 0, 0, 0, 1]]), infer=infer))
    world.run(30.0)
    assert len(world.published) == 10
    assert sum(step.delta[0] for step in world.published) == pytest.approx(0.003)


def test_a_position_that_is_no_number_is_not_forgotten(world):
    world.hear_position(np.full(3, np.nan))
    film(world, 20, 2.0)
    world.run(3.0)
    assert not world.published and 'is not finite' in world.refusals[-1]


def test_a_simulation_that_stands_still_until_it_is_answered_may_send_its_image_again():
    world = World(ARM, T, pacing='lockstep')
    world.say('pick up')
    image = world.see(FAST, infer=4.0)
    for number in range(1, 39):
        world.at(0.1 * number, lambda: world.resend(image))
    world.run(5.0)
    assert (len(world.published), world.refusals, world.pilot.fault) == (1, [], '')
