"""A mug goes through a door by its handle; what follows from where mug, door and hand are."""

import numpy as np
import pytest

from specvla_ros.libero.experts.inserts import Case, goes_in_by_handle, Insert
from specvla_ros.libero.experts.motion import CLOSED, OPEN
from specvla_ros.libero.experts.plan import Act, Stage
from specvla_ros.libero.experts.task_expert import skill_of

DOWN = np.diag([1.0, -1.0, -1.0])  # a hand whose fingers point down
FLOOR = 0.04  # m: of the microwave
REGION = 'microwave_1_heating_region'
ANGLES = np.linspace(0, 2 * np.pi, 12, endpoint=False)
HANDLE_HALF = np.array([0.008, 0.008, 0.03])
WALL_HALF = np.array([0.006, 0.006, 0.05])


class Kitchen:
    """
    A mug, 0.1 m wide and high, and a microwave behind the shut door's plane y = 0.25 m.

    The door is open by `angle`; the mug's handle is on the side `towards`; `block` is an x that
    must not be reached.
    """

    def __init__(self, mug=(0, 0), towards=(0, -1), angle=-1.7, block=np.inf):
        self.mug, self.towards = np.array([*mug, 0.05], float), np.array([*towards, 0.0])
        self.angle, self.block = angle, block
        self.eef, self.hand = np.array([0, -0.3, 0.3]), DOWN
        self.width, self.touching = 0.08, False

    def owner(self, region):
        return region.split('_1_')[0] + '_1'

    def movable(self, name):
        return name == 'basket_1'

    def jointed(self, name):
        return name in ('microwave_1', 'cabinet_1', 'cabinet_1_top_region')

    def joint(self, name):
        return self.angle, np.array([0, 0, 1.0]), np.array([-0.15, 0.25, 0.1])

    def moving_boxes(self, name):
        along = np.array([np.cos(self.angle), np.sin(self.angle), 0])
        axes = np.column_stack([along, np.cross((0, 0, 1.0), along), (0, 0, 1.0)])
        return [(np.array([-0.15, 0.25, 0.1]) + 0.13 * along, np.array([0.13, 0.012, 0.09]), axes)]

    def position(self, name):
        return self.mug.copy() if name == 'mug' else np.array([0.0, 0.35, 0.12])

    def parts(self, name):
        walls = [self.mug + 0.045 * np.array([np.cos(a), np.sin(a), 0]) for a in ANGLES]
        handle = self.mug + 0.075 * self.towards
        return [(wall - WALL_HALF, wall + WALL_HALF) for wall in walls] + \
            [(handle - HANDLE_HALF, handle + HANDLE_HALF)]

    def bounds(self, name):
        corners = np.array(self.parts(name)).reshape(-1, 3)
        return corners.min(0), corners.max(0)

    def surface(self, point, above=0.25):
        return FLOOR

    def clearance(self, points, ignored):
        return max(self.block - points[:, 0].max(), 0.0)

    def holds(self, name):
        return self.touching


@pytest.mark.parametrize('angle', [-1.7, -0.8, 0.0])
def test_a_case_is_known_from_its_door_however_wide_it_is_open(angle):
    case = Case(Kitchen(angle=angle), REGION)
    assert np.allclose(case.outward, [0, -1, 0], atol=1e-9)
    assert case.face == pytest.approx(-0.25 - 0.012)


@pytest.mark.parametrize(('towards', 'region', 'so'), [
    ((0, -1), REGION, True), ((0, 1), REGION, False), ((1, 0), REGION, False),
    ((0, -1), 'cabinet_1_top_region', False), ((0, -1), 'basket_1_contain_region', False),
    ((0, -1), 'caddy_1_back_contain_region', False)])
def test_only_a_handle_on_the_side_of_a_door_serves(towards, region, so):
    assert goes_in_by_handle(Kitchen(towards=towards), 'mug', region) == so


def test_the_rim_of_a_bowl_is_no_handle():
    kitchen = Kitchen(towards=(0, -0.6))  # as far out as the walls
    assert not goes_in_by_handle(kitchen, 'mug', REGION)


def test_a_mug_before_a_microwave_gets_this_skill():
    goal = ('in', 'mug', REGION)
    assert isinstance(skill_of(Kitchen(), Stage(Act.PUT, goal, 'mug', REGION)), Insert)


def play(kitchen, steps=300):
    """Let a hand follow at once; it holds the mug once its fingers are shut at the handle."""
    skill = Insert(kitchen, 'mug', REGION)
    for _ in range(steps):
        motion = skill.act(DOWN)
        action = motion.action(kitchen.hand, DOWN)
        assert np.abs(action[:3]).max() > 1e-5  # no zero answers
        move = np.clip(0.3 * action[:3], -0.015, 0.015)
        kitchen.width = 0.08 if motion.gripper == OPEN else max(kitchen.width - 0.01, 0.016)
        away = np.linalg.norm(skill.grip - kitchen.eef)
        kitchen.touching = kitchen.width < 0.02 and away < 0.015
        kitchen.eef, kitchen.hand = kitchen.eef + move, motion.turn @ DOWN
        if kitchen.touching:
            kitchen.mug = kitchen.mug + move
        yield motion
        if kitchen.mug[1] > 0.3 and motion.gripper == OPEN:
            return
    pytest.fail(f'the mug is at {kitchen.mug}, the hand at {kitchen.eef}')


@pytest.mark.parametrize('mug', [(0, 0), (0.04, -0.03), (-0.05, 0.05)])
def test_a_mug_is_carried_in_over_the_floor_and_let_go_behind_the_door(mug):
    kitchen = Kitchen(mug)
    lows = []
    for motion in play(kitchen):
        low, high = kitchen.bounds('mug')
        if high[1] > 0.25:
            lows.append(low[2])
        if motion.gripper == CLOSED:
            assert motion.turn[2, 2] < 0.5  # level
    assert min(lows) > FLOOR
    assert kitchen.bounds('mug')[0][1] > 0.24
    assert abs(kitchen.mug[0]) < 0.02


def test_it_goes_in_where_the_hand_finds_room_beside_the_door_frame():
    """The hand, wider than the mug, hit the panel beside the opening."""
    free, blocked = (Insert(Kitchen(block=block), 'mug', REGION).target for block in (np.inf, 0.1))
    assert free[0] == pytest.approx(0) and blocked[0] < -0.02
