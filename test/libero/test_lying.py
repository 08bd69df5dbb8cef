"""Things are laid again as they lay, wherever what they lay on is by then."""

import numpy as np
import pytest

from specvla_ros.libero.environment import LiberoEnv
from specvla_ros.libero.lying import Lying

SOUP, BASKET = 'alphabet_soup_1', 'basket_1'


@pytest.fixture(scope='module')
def env():
    env = LiberoEnv('libero_object', 0, render=False)
    yield env
    env.close()


def pose(env, name):
    body = env.sim.sim.data._data.body(env.sim.obj_body_id[name])
    return body.xpos.copy(), body.xmat.reshape(3, 3).copy()


def test_what_lay_in_a_basket_lies_in_it_where_it_stands_elsewhere(env):
    env.reset_random(1)
    place, turn = pose(env, BASKET)
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    Lying(SOUP, 0, place + (0.01, 0, 0.05), quarter).lay(env.sim)
    lying = Lying.on(env.sim, SOUP, BASKET)
    env.reset_random(2)
    elsewhere, turned = pose(env, BASKET)
    assert np.abs(elsewhere - place)[:2].max() > 0.001
    others = env.positions
    env.put_back(others, env.fixture_joints, [lying])
    place_now, turn_now = pose(env, SOUP)
    wanted = turn.T @ [0.01, 0, 0.05]
    np.testing.assert_allclose(turned.T @ (place_now - elsewhere), wanted, atol=1e-9)
    np.testing.assert_allclose(turned.T @ turn_now, turn.T @ quarter, atol=1e-9)
    assert (env.positions != others).sum() <= 7  # nothing else moved
    env.put_back(others, env.fixture_joints, [])
    assert (env.positions == others).all()


def test_what_the_hand_holds_comes_with_the_arm(env):
    env.reset_random(1)
    hand = env.raw['robot0_eef_pos'].copy()
    Lying(SOUP, 0, hand, np.eye(3)).lay(env.sim)
    held = Lying.in_hand(env.sim, SOUP)
    np.testing.assert_allclose(held.place, 0, atol=1e-4)
    arm = env.arm
    arm[0] += 0.3
    assert env.put_arm(arm, held)  # the hand may touch what it holds
    moved = env.raw['robot0_eef_pos']
    assert np.linalg.norm(moved - hand) > 0.1
    np.testing.assert_allclose(pose(env, SOUP)[0], moved, atol=1e-4)
    arm[1] += 1.2  # down to the floor
    assert not env.put_arm(arm, held)


def test_drawers_stand_as_they_stood(env):
    assert len(env.fixture_joints) == 0  # a floor has none
    kitchen = LiberoEnv('libero_goal', 0, render=False)
    kitchen.reset_random(1)
    shut = kitchen.fixture_joints
    assert len(shut) == 4  # three drawers, and the stove's knob
    bowl, drawer = 'akita_black_bowl_1', 'wooden_cabinet_1_top_region'
    before = pose(kitchen, bowl)[0]
    in_drawer, on_cabinet = (Lying.on(kitchen.sim, bowl, it)
                             for it in (drawer, 'wooden_cabinet_1'))
    pulled = shut - 0.1
    for lying, comes_along in ((in_drawer, True), (on_cabinet, False)):
        kitchen.put_back(kitchen.positions, pulled, [lying])
        np.testing.assert_allclose(kitchen.fixture_joints, pulled)
        way = np.linalg.norm(pose(kitchen, bowl)[0] - before)
        assert abs(way - 0.1 * comes_along) < 1e-3  # the drawer moves, the cabinet doesn't
    kitchen.close()
