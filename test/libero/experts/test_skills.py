"""Skills on a table that is made up: what they answer follows from the scene alone."""

from types import SimpleNamespace
import weakref

import numpy as np
import pytest

from specvla_ros.libero.experts.drawers import CloseDrawer, OpenDrawer
from specvla_ros.libero.experts.motion import about_z, CLOSED, OPEN, rotation, rotation_vector
from specvla_ros.libero.experts.places import place_of
from specvla_ros.libero.experts.plan import Act, Stage
from specvla_ros.libero.experts.pushes import PushTo
from specvla_ros.libero.experts.put import Put
from specvla_ros.libero.experts.task_expert import TaskExpert
from specvla_ros.libero.experts.workspace import Workspace

DOWN = np.diag([1.0, -1.0, -1.0])  # a hand whose fingers point down
BOX = np.array([0.08, 0.04, 0.018])  # m: a cream cheese


class Table:
    """A box at `things['box']`, whatever else a test adds, and a hand."""

    base = np.array([-0.66, 0.0, 0.0])

    def __init__(self, **facts):
        self.eef, self.hand, self.width = np.zeros(3), DOWN, 0.08
        self.things, self.sizes = {'box': np.array([0.0, 0.0, 0.009])}, {'box': BOX}
        self.touching, self.movables, self.joints = False, {'box'}, {}
        self.along = np.array([1.0, 0.0])
        self.moving, self.others = 0.0, np.zeros((0, 3))  # points on what else stands there
        vars(self).update(facts)

    def position(self, name):
        return self.things[name].copy()

    def bounds(self, name):
        half = self.sizes[name] / 2
        return self.things[name] - half, self.things[name] + half

    def sides(self, name):
        return np.append(self.along, 0), max(self.sizes[name][:2]), min(self.sizes[name][:2])

    def holds(self, name):
        return self.touching

    def movable(self, name):
        return name in self.movables

    def owner(self, region):
        return region.removesuffix('_region')

    def extent(self, region):
        return self.sizes[region] / 2

    def region_axes(self, region):
        return self.axes

    def surface(self, point):
        return 0.0

    def speed(self, name):
        return self.moving

    def apart(self, points, ignored):
        return float(np.linalg.norm(points[:, None] - self.others, axis=2).min(initial=np.inf))

    def clearance(self, points, ignored):
        return np.inf

    def highest(self, point, around, ignored):
        return -np.inf

    def height_around(self, name, margin):
        return 0.0

    def jointed(self, name):
        return name in self.joints

    def joint(self, name):
        return self.joints[name]

    def travel(self, name):
        return (-0.16 - self.joints[name][0]) * self.joints[name][1]

    def moving_boxes(self, name):
        return [(self.things['handle'], np.full(3, 0.005), np.eye(3))]


def on_the_table(scene):
    return Put(scene, 'box', SimpleNamespace(
        middle=np.array([0.3, 0.0, 0.0]), top=0.05, drop=0.01, inside=True, slack=0.025,
        along=None, receives=lambda thing: False))


def test_fingers_that_drifted_above_what_is_flat_go_down_while_they_close():
    scene = Table(eef=np.array([0, 0, 0.022]), width=0.06)
    motion = on_the_table(scene).act(DOWN)  # 10 mm above the grasp: the box ends at 18 mm
    assert motion.gripper == CLOSED and motion.error[2] < 0
    scene.eef[2] = 0.012
    assert on_the_table(scene).act(DOWN).error[2] > 0  # at the grasp it rises, slowly


def test_fingers_that_have_met_around_what_stands_rise_though_the_pads_miss_it():
    """A bottle of ketchup: they hung 5 mm above the grasp for good."""
    bottle = np.array([0.04, 0.04, 0.15])
    scene = Table(width=0.034, sizes={'box': bottle}, things={'box': bottle * (0, 0, 0.5)})
    put = on_the_table(scene)
    for above in (0, 0.005, 0.01):
        scene.eef = put.grip + (0, 0, above)
        motion = put.act(DOWN)
        assert motion.gripper == CLOSED and motion.error[2] > 0.005


def test_what_was_lifted_counts_as_held_though_the_pads_miss_it():
    scene = Table(eef=np.array([0, 0, 0.012]), width=0.045)
    put = on_the_table(scene)
    assert not put.held
    scene.things['box'][2] += 0.02
    scene.eef[2] += 0.02
    assert put.held
    scene.width = 0.08
    assert not put.held


def test_the_hand_stays_above_what_it_would_sweep_away():
    scene = Table(eef=np.array([0.2, 0.0, 0.15]))
    assert on_the_table(scene).act(DOWN).error[2] < 0
    scene.highest = lambda *_: 0.20
    motion = on_the_table(scene).act(DOWN)
    assert motion.error[2] > 0.05 and abs(motion.error[0]) < 0.1
    scene.touching, scene.eef, scene.things['box'] = True, np.array([0, 0, 0.15]), \
        np.array([0, 0, 0.147])
    assert on_the_table(scene).act(DOWN).error[2] > 0


@pytest.mark.parametrize('start', [(0, 0.0, 0.12), (0.03, -0.03, 0.11), (0, 0.2, 0.1),
                                   (-0.2, -0.3, 0.3), (0.0, -0.05, 0.0)])
def test_a_drawer_is_pushed_from_wherever_the_hand_is(start):
    scene = Table(eef=np.array(start, float))
    scene.things |= {'drawer': np.array([0, 0.1, 0]), 'handle': np.zeros(3)}
    scene.joints['drawer'] = (-0.15, np.array([0.0, -1.0, 0.0]) * -1, np.zeros(3))
    skill = CloseDrawer(scene, 'drawer')
    for _ in range(80):
        motion = skill.act(DOWN)
        if np.linalg.norm(scene.eef - skill.handle) < 0.06 and motion.error[1] > 0.03:
            assert abs(motion.error[0]) < 0.03  # in front of the handle, and on to it
            return
        scene.eef = scene.eef + np.clip(1.5 * motion.error, -0.05, 0.05) / 3
    pytest.fail(f'the hand stopped at {scene.eef}')


@pytest.mark.parametrize('yaw', [-3.0, -1.5, 0.0, 1.5, 3.0])
def test_a_hand_turns_to_push_without_going_round(yaw):
    """Half a turn more, and Panda's wrist came to its end: the arm went astray for good."""
    scene = Table(eef=np.array([0, 0.2, 0.1]))
    scene.things |= {'drawer': np.array([0, 0.1, 0]), 'handle': np.zeros(3)}
    scene.joints['drawer'] = (-0.15, np.array([0.0, 1.0, 0.0]), np.zeros(3))
    skill = CloseDrawer(scene, 'drawer')
    hand = scene.hand = about_z(yaw) @ DOWN
    for _ in range(100):
        turn = skill.act(DOWN).turn
        scene.hand = rotation(0.2 * rotation_vector(turn @ DOWN @ scene.hand.T), 1) @ scene.hand
        assert np.linalg.norm(rotation_vector(scene.hand @ hand.T)) < 2.1  # rad
    assert abs(scene.hand[:, 1] @ [1, 0, 0]) > 0.99  # they would open along the handle


def test_fingers_that_close_around_a_handle_give_way_outwards():
    """One that hung behind the edge of a cabinet's top stood still at 41 mm for good."""
    scene = Table(width=0.041)
    scene.things |= {'drawer': np.array([0, 0.1, 0]), 'handle': np.zeros(3)}
    scene.joints['drawer'] = (0.0, np.array([0.0, 1.0, 0.0]), np.zeros(3))
    skill = OpenDrawer(scene, 'drawer')
    scene.eef = skill.handle - 0.01 * skill.back
    motion = skill.act(DOWN)
    assert motion.gripper == CLOSED and motion.error @ skill.back > 0.005
    scene.width = 0.02  # around the bar: pulled at full speed
    assert skill.act(DOWN).error @ skill.back > 0.025


def test_fingers_that_slipped_off_a_handle_open_where_there_is_none():
    """A policy that sees one picture can't tell fingers that open beside it from closing ones."""
    scene = Table(width=0.004)
    scene.things |= {'drawer': np.array([0, 0.1, 0]), 'handle': np.zeros(3)}
    scene.joints['drawer'] = (0.0, np.array([0.0, 1.0, 0.0]), np.zeros(3))
    skill = OpenDrawer(scene, 'drawer')
    scene.hand = skill.turn @ DOWN
    scene.eef = skill.handle + 0.02 * skill.back
    for _ in range(60):
        motion = skill.act(DOWN)
        away = (scene.eef - skill.handle) @ skill.back
        if scene.width < 0.07:
            assert motion.gripper == (OPEN if away > 0.08 else CLOSED)
        scene.width = np.clip(scene.width + (0.01 if motion.gripper == OPEN else -0.01), 0, 0.08)
        scene.eef = scene.eef + np.clip(1.5 * motion.error, -0.05, 0.05) / 3
        if motion.gripper == CLOSED and away < 0:
            return  # it is back, and closes around the bar
    pytest.fail(f'the hand stopped at {scene.eef}')


def test_a_plate_is_drawn_at_full_pull_until_the_fingers_slip():
    scene = Table(things={'plate': np.zeros(3), 'region': np.array([0, 0.3, 0])},
                  sizes={'plate': np.array([0.14, 0.14, 0.02])})
    skill = PushTo(scene, 'plate', 'region')
    for lead in (0.0, 0.02, 0.04):  # friction lets the fingers run ahead a little
        scene.eef = np.array([0, lead, 0.004])
        assert skill.act(DOWN).error[1] == pytest.approx(0.03)
    scene.eef = np.array([0, 0.08, 0.004])
    back = skill.act(DOWN).error
    assert back[1] < 0 < back[2]  # over the rim, and back


def test_slots_keep_inside_what_is_put_inside():
    scene = Table(movables={'box', 'basket'})
    scene.things |= {'basket': np.zeros(3), 'basket_region': np.zeros(3)}
    scene.sizes |= {'basket': np.full(3, 0.14), 'basket_region': np.full(3, 0.12)}
    places = [place_of(scene, 'box', 'basket_region', True, slot, 2).middle[0]
              for slot in (0, 1)]
    assert places[0] < 0 < places[1]
    assert max(np.abs(places)) + BOX[0] / 2 <= 0.06


def test_a_drawer_is_filled_at_its_front_and_a_caddy_in_the_middle():
    scene = Table()
    scene.things |= {'drawer': np.zeros(3), 'handle': np.array([0, -0.1, 0.03])}
    scene.sizes['drawer'] = np.array([0.2, 0.16, 0.06])
    assert place_of(scene, 'box', 'drawer', True).middle[1] == 0
    scene.joints['drawer'] = (-0.15, np.array([0.0, 1.0, 0.0]), np.zeros(3))
    front = place_of(scene, 'box', 'drawer', True).middle[1]
    assert -0.08 + BOX[1] / 2 < front < -0.04


def book(askew=0.0, **facts):
    """Put a book of 120 x 30 mm into a caddy that is long along y."""
    scene = Table(sizes={'box': np.array([0.12, 0.03, 0.14]), 'caddy_region': np.array(
        [0.06, 0.13, 0.1]), 'caddy': np.array([0.06, 0.13, 0.1])}, things={
        'box': np.array([0.2, 0, 0.07]), 'caddy_region': np.array([-0.2, 0, 0.05]),
        'caddy': np.array([-0.2, 0, 0.05])}, **facts)
    scene.along = np.array([np.cos(askew), np.sin(askew)])
    return scene, Put(scene, 'box', place_of(scene, 'box', 'caddy_region', True))


@pytest.mark.parametrize('askew', [-0.5, 0.0, 0.4])
def test_a_book_is_taken_across_its_thickness(askew):
    scene, put = book(askew)
    scene.eef = put.grip + (0, 0, 0.05)
    fingers = put.act(DOWN).turn @ DOWN[:, 1]  # they open along the hand's y
    assert abs(fingers[:2] @ scene.along) < 1e-6


@pytest.mark.parametrize('askew', [-0.9, -0.3, 0.0, 0.3, 1.2, np.pi / 2 - 0.05])
def test_a_book_is_turned_to_its_compartment_before_it_is_let_go(askew):
    scene, put = book(askew, touching=True)
    scene.things['box'] = np.array([-0.2, 0, 0.145])
    scene.eef = scene.things['box'] + (0, 0, 0.035)
    motion = put.act(DOWN)
    after = motion.turn @ scene.hand @ DOWN.T @ np.append(scene.along, 0)
    turned = abs(after[1])
    assert turned == pytest.approx(1, abs=1e-6)
    assert motion.gripper == (OPEN if abs(scene.along[1]) > 0.995 else CLOSED)


def test_a_book_is_lifted_over_a_wall_before_it_comes_near():
    """Its corner hit the caddy's wall, and it swung in the fingers."""
    scene, put = book(touching=True)
    scene.things['box'] = np.array([0.2, 0, 0.1])
    scene.eef = scene.things['box'] + (0, 0, 0.035)
    free = put.act(DOWN)
    assert free.error[0] < -0.02
    scene.highest = lambda *_: 0.2
    motion = put.act(DOWN)
    assert np.allclose(motion.error[:2], 0) and motion.error[2] > 0.02
    assert np.allclose(motion.turn, np.eye(3))


def test_only_what_is_too_long_for_a_compartment_must_turn():
    scene, put = book()
    assert put.place.along is not None
    scene.sizes['box'] = np.array([0.05, 0.03, 0.14])
    assert place_of(scene, 'box', 'caddy_region', True).along is None


def test_a_region_that_leans_is_aimed_at_along_its_axis():
    lean = np.array([0, -0.6, 0.8])
    scene = Table(axes=np.column_stack([(1, 0, 0), np.cross(lean, (1, 0, 0)), lean]))
    scene.things |= {'rack_region': np.zeros(3), 'rack': np.zeros(3)}
    scene.sizes['rack_region'] = np.array([0.2, 0.04, 0.005])
    assert place_of(scene, 'box', 'rack_region', False).middle[1] == pytest.approx(-0.03)


def test_what_is_still_in_the_hand_is_not_put_yet():
    steps = (Stage(Act.PUT, ('in', 'box', 'drawer'), 'box', 'drawer'),
             Stage(Act.CLOSE, ('close', 'drawer'), 'drawer'))
    expert = TaskExpert.__new__(TaskExpert)
    expert.steps = steps
    expert._scene = SimpleNamespace(satisfied=lambda goal: goal[0] == 'in')
    expert._skills = [SimpleNamespace(held=True), SimpleNamespace(held=False)]
    assert expert.step.act is Act.PUT
    expert._skills[0].held = False
    assert expert.step.act is Act.CLOSE


def test_an_object_over_its_place_is_let_go():
    scene = Table(eef=np.array([0.3, 0, 0.07]), touching=True)
    scene.things['box'] = np.array([0.3, 0, 0.067])
    assert on_the_table(scene).act(DOWN).gripper == OPEN


def test_a_workspace_and_its_simulator_are_freed_after_an_episode():
    model = SimpleNamespace(geom_group=np.zeros(3), geom_bodyid=[1, 2, 0], body_parentid=[0, 0, 1])
    scene = Workspace(SimpleNamespace(sim=SimpleNamespace(
        obj_body_id={'box': 1}, sim=SimpleNamespace(
            model=SimpleNamespace(_model=model), data=SimpleNamespace(_data=None)))))
    assert scene._geoms('box') == scene._geoms('box') == [0, 1]
    gone = weakref.ref(scene)
    del scene
    assert gone() is None
