"""What a drawer would come to hang over is put beside its way first."""

from types import SimpleNamespace

import numpy as np
import pytest

from specvla_ros.libero.experts.aside import aside_of, covered
from specvla_ros.libero.experts.plan import Act, plan
from specvla_ros.libero.experts.task_expert import TaskExpert

HALF = np.array([0.05, 0.05, 0.025])  # m: of a bowl
BOX = np.array([0.1, 0.09, 0.03])     # of a drawer, 0.2 m over the table


class Kitchen:
    """A bowl on the table and a drawer that is shut at y < -0.1 and opens by 0.16 m along y."""

    base = np.array([-0.6, 0.0, 0.0])

    def __init__(self, bowl, opened=0.0, others=()):
        self.bowl, self.opened = np.array([*bowl, 0.025], float), opened
        self.others = np.array(others, float).reshape(-1, 2)

    def position(self, name):
        return self.bowl.copy() if name == 'bowl' else np.array([0, -0.19 + self.opened, 0.2])

    def bounds(self, name):
        return self.position(name) - HALF, self.position(name) + HALF

    def moving_boxes(self, name):
        return [(self.position(name), BOX, np.eye(3))]

    def travel(self, name):
        return np.array([0, 0.16 - self.opened, 0])

    def surface(self, point):
        return 0.0

    def clearance(self, points, ignored):
        away = points[:, None, :2] - self.others
        return np.linalg.norm(away, axis=2).min(initial=np.inf)


@pytest.mark.parametrize('opened', [0.0, 0.1, 0.16])
@pytest.mark.parametrize(('bowl', 'below'), [
    ((0, 0), True), ((0, 0.09), True), ((0, 0.16), False), ((0.14, 0), True), ((-0.2, 0), False)])
def test_what_stands_where_the_open_drawer_hangs_is_covered(bowl, below, opened):
    assert covered(Kitchen(bowl, opened), 'bowl', 'drawer') == below


def test_what_lies_in_a_drawer_or_over_it_is_not_covered():
    kitchen = Kitchen((0, 0))
    kitchen.bowl[2] = 0.3
    assert not covered(kitchen, 'bowl', 'drawer')


@pytest.mark.parametrize('others', [(), [(0, 0.14)], [(0, 0.14), (-0.2, 0.1), (0.1, 0.2)]])
def test_the_spot_aside_is_free_and_within_reach(others):
    kitchen = Kitchen((0, 0), others=others)
    place = aside_of(kitchen, 'bowl', 'drawer')
    assert np.linalg.norm(place.middle[:2] - kitchen.base[:2]) < 0.7
    assert all(np.linalg.norm(place.middle[:2] - other) > 0.05 for other in kitchen.others)
    kitchen.bowl[:2] = place.middle[:2]
    assert not covered(kitchen, 'bowl', 'drawer')


def test_it_is_not_carried_over_what_stands_between():
    """A bottle was swept away by the bowl that was carried to the nearest spot, behind it."""
    free = aside_of(Kitchen((-0.1, 0.0)), 'bowl', 'drawer').middle
    assert free[0] < -0.1
    bottles = [(-0.17, 0.0), (-0.17, 0.05), (-0.17, -0.05), (-0.17, -0.1)]
    place = aside_of(Kitchen((-0.1, 0.0), others=bottles), 'bowl', 'drawer').middle
    assert place[1] > 0.1


def test_a_bowl_is_cleared_away_only_before_the_drawer_is_open():
    steps = plan([['in', 'bowl', 'cabinet_1_region']])
    kitchen, facts = Kitchen((0, 0)), set()
    kitchen.satisfied = lambda goal: goal[0] in facts
    expert = TaskExpert.__new__(TaskExpert)
    expert.steps, expert._scene = steps, kitchen
    expert._skills = [SimpleNamespace(held=False) for _ in steps]
    assert expert.step.act is Act.CLEAR
    kitchen.bowl[1] = 0.2
    assert expert.step.act is Act.OPEN
    expert._skills[0].held = expert._skills[2].held = True  # it is set down before
    assert expert.step.act is Act.CLEAR
    facts.add('open')
    assert expert.step.act is Act.PUT
    kitchen.bowl[1] = 0.0
    assert expert.step.act is Act.PUT
