"""A plan serves every goal of the four suites, and opens before it puts, and closes after."""

import re

import pytest

from specvla_ros.libero import suites
from specvla_ros.libero.experts.plan import Act, plan

EVALUATED = ('libero_spatial', 'libero_object', 'libero_goal', 'libero_10')


def goals(suite, task):
    """Read a task's goal from its BDDL file, as LIBERO parses it."""
    path = suites.package_folder() / 'bddl_files' / suite / f'{suites.task(suite, task).name}.bddl'
    text = path.read_text()
    found = re.findall(r'\((In|On|Open|Close|Turnon|Turnoff) ([^()]*)\)',
                       text[text.index('(:goal'):])
    return [[name.lower(), *arguments.split()] for name, arguments in found]


@pytest.mark.parametrize('task', range(10))
@pytest.mark.parametrize('suite', EVALUATED)
def test_every_predicate_of_every_task_is_the_aim_of_one_step(suite, task):
    wanted = goals(suite, task)
    steps = plan(wanted)
    aims = [list(step.goal) for step in steps if not step.needed_for]
    assert wanted and sorted(aims) == sorted(wanted)
    assert [step.act for step in steps] == sorted(step.act for step in steps)


def acts(suite, task):
    return [(step.act, step.thing) for step in plan(goals(suite, task))]


def test_a_drawer_is_opened_before_and_closed_after():
    drawer, bowl = 'wooden_cabinet_1_top_region', 'akita_black_bowl_1'
    assert acts('libero_goal', 3) == [(Act.CLEAR, bowl), (Act.OPEN, drawer), (Act.PUT, bowl)]
    drawer = 'white_cabinet_1_bottom_region'
    assert acts('libero_10', 3) == [(Act.CLEAR, bowl), (Act.OPEN, drawer), (Act.PUT, bowl),
                                    (Act.CLOSE, drawer)]
    assert acts('libero_10', 9) == [(Act.OPEN, 'microwave_1'), (Act.PUT, 'white_yellow_mug_1'),
                                    (Act.CLOSE, 'microwave_1')]


def test_the_knob_comes_first_and_what_shares_a_place_gets_a_slot_each():
    assert acts('libero_10', 2) == [(Act.TURN, 'flat_stove_1'), (Act.PUT, 'moka_pot_1')]
    assert [(step.thing, step.slot, step.slots) for step in plan(goals('libero_10', 8))] == [
        ('flat_stove_1', 0, 1), ('moka_pot_1', 0, 2), ('moka_pot_2', 1, 2)]


def test_a_plate_is_pushed_and_the_top_of_a_cabinet_needs_no_opening():
    assert acts('libero_goal', 5) == [(Act.PUSH, 'plate_1')]
    assert acts('libero_goal', 4) == [(Act.PUT, 'akita_black_bowl_1')]


@pytest.mark.parametrize('goal', [['up', 'bowl'], ['on', 'bowl'], ['open', 'drawer', 'bowl']])
def test_a_goal_that_no_skill_serves_is_named(goal):
    with pytest.raises(ValueError, match=f'no scripted expert for the goal.*{goal[0]}'):
        plan([goal])
