"""Which word holds: what was said last, of any kind; repeating says nothing new. Without ROS."""
from hypothesis import given
from hypothesis import strategies as st

from specvla_ros.nodes.policy_node.instruction_arbiter import (
    HeardText,
    InstructionArbiter,
    Novelty,
    PAUSE,
)

SECOND = 10**9
BOSS, OTHER = frozenset([b'boss']), frozenset([b'boss', b'other'])


class Topic:
    """Says words to `InstructionArbiter` at moments of one clock."""

    def __init__(self):
        self.words, self.now, self.count = InstructionArbiter(), 1000.0, 0

    def say(self, text, after=0.1, number=None, speakers=OTHER, skew=0.0, is_kept=False):
        self.now += after
        self.count = self.count + 1 if number is None else number
        stamp = round((self.now + skew) * SECOND)
        return self.words.hear(HeardText(text, stamp, is_kept, self.count, speakers), self.now)

    def repeat(self, text, times, after=0.1):
        return [self.say(text, after) for _ in range(times)]

    def goal(self, text, after=0.05):
        self.now += after
        return self.words.say(text, round(self.now * SECOND))


def test_the_newest_word_of_any_kind_holds():
    topic = Topic()
    assert topic.say('pick up') is Novelty.NEW
    assert topic.goal('open')
    assert topic.words.text == 'open'
    assert topic.say('close') is Novelty.NEW
    assert topic.goal('')
    assert topic.words.text == ''


def test_a_repeated_text_does_not_come_back_after_the_end_of_a_goal():
    for instruction in ('pick up', 'open'):
        topic = Topic()
        topic.repeat('pick up', 5)
        topic.goal(instruction)
        topic.repeat('pick up', 5)
        assert topic.words.text == instruction
        topic.goal('')
        assert set(topic.repeat('pick up', 1000)) == {Novelty.REPEATED}
        assert topic.say('put down') is Novelty.NEW
        assert topic.words.text == 'put down'
        assert topic.say('pick up') is Novelty.REPEATED


def test_a_text_said_once_and_repeated_from_then_on_does_not_come_back():
    topic = Topic()
    topic.say('pick up')
    topic.goal('')
    assert set(topic.repeat('pick up', 20, after=1.0)) == {Novelty.REPEATED}


def test_a_goal_says_the_same_text_anew():
    topic = Topic()
    topic.repeat('pick up', 5)
    topic.goal('')
    assert topic.goal('pick up')
    assert topic.words.text == 'pick up'


def test_after_a_pause_the_same_text_is_said_anew():
    topic = Topic()
    topic.repeat('pick up', 5)
    topic.goal('')
    assert topic.say('pick up', after=PAUSE - 0.1) is Novelty.REPEATED
    assert topic.say('pick up', after=PAUSE + 0.1) is Novelty.NEW


def test_a_slow_repeater_has_a_longer_pause():
    topic = Topic()
    topic.repeat('pick up', 4, after=10.0)
    topic.goal('')
    assert topic.say('pick up', after=10.2) is Novelty.REPEATED
    assert topic.say('pick up', after=9.8) is Novelty.REPEATED
    assert topic.say('pick up', after=35.0) is Novelty.NEW


def test_a_person_is_no_slow_repeater():
    topic = Topic()
    for after in (4.0, 60.0, 20.0, 5.0):
        topic.say('pick up', after)
    topic.goal('')
    assert topic.say('pick up', after=30.0) is Novelty.NEW


def test_a_new_publisher_says_the_same_text_anew():
    """`ros2 topic pub --once`, or a latched publisher that was started again."""
    for is_kept in (False, True):
        topic = Topic()
        topic.repeat('pick up', 5)
        topic.goal('')
        assert topic.say('pick up', number=1, is_kept=is_kept) is Novelty.NEW


def test_the_only_publisher_may_change_its_mind_and_change_it_again():
    topic = Topic()
    for text in ('pick up', '', 'pick up', 'put down', 'pick up'):
        assert topic.say(text, speakers=BOSS) is Novelty.NEW


def test_the_only_publisher_only_repeats_where_it_said_nothing_else():
    topic = Topic()
    topic.say('pick up', speakers=BOSS)
    topic.goal('')
    assert topic.say('pick up', speakers=BOSS) is Novelty.REPEATED


def test_a_repeater_is_not_taken_for_the_one_who_withdrew_its_text_and_has_gone_already():
    topic = Topic()
    for _ in range(5):
        topic.say('pick up', speakers=BOSS)
    count = topic.count
    assert topic.say('', number=1, speakers=BOSS) is Novelty.NEW
    assert topic.say('pick up', number=count + 1, speakers=BOSS) is Novelty.REPEATED
    assert topic.words.text == ''


def test_the_empty_text_always_stops():
    topic = Topic()
    topic.repeat('', 3)
    topic.goal('pick up')
    assert topic.say('') is Novelty.NEW
    assert topic.words.text == ''


def test_what_was_kept_for_late_joiners_has_its_place_in_time():
    topic = Topic()
    assert topic.say('new', skew=-5, is_kept=True) is Novelty.NEW
    assert topic.say('old', skew=-7, is_kept=True) is Novelty.OUTDATED
    assert topic.say('newer', skew=-3, is_kept=True) is Novelty.NEW
    topic.goal('')
    assert topic.say('newer', skew=-3, is_kept=True) is Novelty.OUTDATED
    assert topic.words.text == ''


def test_a_live_word_counts_whatever_its_publisher_s_clock_says():
    topic = Topic()
    topic.say('pick up', skew=3600)
    assert topic.say('put down', skew=-3600) is Novelty.NEW
    topic.goal('pick up')
    assert topic.say('', skew=-3600, is_kept=True) is Novelty.OUTDATED
    # the same word on the other subscription
    assert topic.say('', after=0, skew=-3600) is Novelty.NEW
    assert topic.words.text == ''


def test_words_without_a_stamp_are_all_live():
    words = InstructionArbiter()
    words.say('pick up', 10**18)
    for text in ('', 'open', ''):
        assert words.hear(HeardText(text, 0, is_kept=True, number=1), 5.0) is Novelty.NEW
        assert words.text == text


said = st.tuples(st.sampled_from(['', 'a', 'b']), st.floats(0.01, 5), st.booleans())


@given(st.lists(said, max_size=20), st.permutations([False, False, True]))
def test_copies_of_a_word_change_nothing(words, copies):
    topic, alone = Topic(), Topic()
    for text, after, is_goal in words:
        for other in (topic, alone):
            if is_goal:
                other.goal(text, after)
        if is_goal:
            continue
        alone.say(text, after)
        topic.say(text, after, is_kept=copies[0])
        for is_kept in copies[1:]:
            assert topic.say(text, 0, topic.count, is_kept=is_kept) in (
                Novelty.KNOWN, Novelty.OUTDATED)
        assert topic.words.text == alone.words.text


@given(st.lists(st.tuples(st.sampled_from(['a', 'b', 'goal', 'end']), st.floats(0.01, 5)),
                max_size=60))
def test_repeaters_never_start_what_something_newer_has_ended(events):
    topic, heard = Topic(), {}
    for what, after in events:
        if what in ('goal', 'end'):
            topic.goal('' if what == 'end' else 'a goal', after)
            continue
        result = topic.say(what, after)
        is_fresh = what not in heard or topic.now - heard[what] > PAUSE
        assert is_fresh or result is not Novelty.NEW
        heard[what] = topic.now
