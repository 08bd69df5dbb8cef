"""Frames that a policy acts on that carries out several control steps of an action."""
import numpy as np
import pytest

from specvla_ros.bags.frames import Frame, live_actions, LiveAction
from specvla_ros.bags.looks import looks
from specvla_ros.bags.reader import Bag

SIZE = 7
PICTURE = np.zeros((4, 4, 3), np.uint8)


def frames(count, segments=None):
    return [Frame(number, number + 1, number + 1, PICTURE, 'push',
                  0 if segments is None else segments[number]) for number in range(count)]


def seen(*arguments):
    return [(look.frame.number, look.executed, look.steps) for look in looks(*arguments)]


@pytest.mark.parametrize(('execute_steps', 'expected'), [
    (1, [(0, None, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 1, 1)]),
    (2, [(0, None, 2), (2, 2, 2), (4, 2, 2)]), (9, [(0, None, 9)])])
def test_frames_are_a_control_period_apart(execute_steps, expected):
    assert seen(frames(5), {}, execute_steps) == expected


def test_behind_steps_that_were_sent_at_once_a_frame_comes_later():
    """A simulation that waits carries them out, and then sends the next frame."""
    live = {stamp: LiveAction((1,) * 28, '', (0, 1, 2, 3), at_once=4) for stamp in (1, 2, 3)}
    assert seen(frames(5), live, 4) == [(0, None, 4), (1, 4, 4), (2, 4, 4), (3, 4, 4)]
    assert seen(frames(5), live, 6) == [(0, None, 6), (2, 8, 6)]
    assert seen(frames(3), live, 2) == [(0, None, 4), (1, 4, 4), (2, 4, 4)]


def test_another_episode_begins_anew():
    assert seen(frames(5, [0, 0, 0, 1, 1]), {}, 2) == [(0, None, 2), (2, 2, 2), (3, None, 2)]


def tokens(*steps):
    return [31744 + 10 * step + place for step in steps for place in range(SIZE)]


def send(maker, received, image, first, *steps, field=True):
    zeros = [maker.make('geometry_msgs/msg/Vector3', x=0.0, y=0.0, z=0.0) for _ in steps]
    maker.send('/action', 'specvla_ros/msg/ActionDelta', received, header=maker.header(received),
               image_stamp=maker.stamp(image), sequence=received, step_period=0.05,
               translation=zeros, rotation=zeros, gripper=np.zeros(len(steps), np.float32),
               normalized=np.zeros(len(steps) * SIZE, np.float32),
               token_ids=np.array(tokens(*steps), np.uint32), limited=False, unverified=False,
               first_step=first)


def test_the_recorded_action_has_the_steps_that_were_executed_and_no_others(make_bag):
    maker = make_bag()
    send(maker, 1, 10, 0, 0, 1, 2, 3)  # in a simulation that waits: at once
    for number in (1, 2, 4):  # on a clock: one by one, 0 missed and 3 skipped
        send(maker, 10 + number, 20, number, number)
    send(maker, 30, 0, 0)  # told to stand still
    maker.writer.finish()
    with Bag(maker.path) as bag:
        live = live_actions(bag)
    assert live == {10: LiveAction(tuple(tokens(0, 1, 2, 3)), '', (0, 1, 2, 3), 4),
                    20: LiveAction(tuple(tokens(1, 2, 4)), '', (1, 2, 4), 1)}
    whole = tokens(*range(8))
    assert live[10].said_again(whole) and live[20].said_again(whole)
    whole[4 * SIZE] += 1  # a step that was executed of one of them only
    assert live[10].said_again(whole) and live[20].said_again(whole) is False
    assert live[20].said_again(tokens(0, 1, 2, 3)) is None  # the last one isn't there
