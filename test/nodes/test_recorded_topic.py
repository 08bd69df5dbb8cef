"""Which publishers of a topic are recorded, without any."""
import pytest

from specvla_ros.nodes.recorded_topic import Offer, Publisher, RecordedTopic

RELIABLE, BEST_EFFORT = Offer(True, False), Offer(False, False)
LATCHED = Offer(True, True)


@pytest.fixture
def topic():
    return RecordedTopic('/image', lambda kind: f'no {kind} here' if kind == 'odd' else '')


def test_every_kind_of_offer_gets_a_subscription_once(topic):
    assert topic.look([]) == []
    assert topic.look([Publisher('a', RELIABLE)]) == [RELIABLE]
    assert topic.look([Publisher('a', RELIABLE)] * 2) == [] and topic.notes == []
    assert topic.look([]) == []  # the camera is restarted
    assert topic.look([Publisher('a', BEST_EFFORT)]) == [BEST_EFFORT]
    note, = topic.notes
    assert note == ('/image: a publisher with another QoS came (best_effort, volatile); it is '
                    'recorded too')
    assert topic.look([Publisher('a', RELIABLE), Publisher('a', BEST_EFFORT)]) == []


def test_two_publishers_of_different_offers_are_both_heard(topic):
    assert topic.look([Publisher('a', LATCHED), Publisher('a', BEST_EFFORT)]) == [
        BEST_EFFORT, LATCHED]
    assert topic.notes == []


def test_a_type_that_is_not_installed_is_said_once_and_a_later_one_is_taken(topic):
    for _ in range(3):
        assert topic.look([Publisher('odd', RELIABLE)]) == []
    assert topic.notes == ['/image is not recorded: no odd here']
    assert topic.look([Publisher('odd', RELIABLE), Publisher('a', RELIABLE)]) == [RELIABLE]
    assert topic.kind == 'a'


def test_a_second_type_is_said_once_and_not_heard(topic):
    topic.look([Publisher('a', RELIABLE)])
    for _ in range(3):
        assert topic.look([Publisher('a', RELIABLE), Publisher('b', BEST_EFFORT)]) == []
    note, = topic.notes
    assert 'messages of type b are not recorded; the topic is recorded as a' in note


def test_what_two_subscriptions_hear_is_new_once(topic):
    assert [topic.is_new(*key) for key in ((5, 1), (5, 1), (5, 2), (6, 1), (5, 2))] == [
        True, False, True, True, False]
    assert topic.is_new(0, 0) and topic.is_new(0, 0)  # the middleware doesn't tell
    for number in range(5000):  # bounded
        assert topic.is_new(7, number)
    assert len(topic._came) < 2000
