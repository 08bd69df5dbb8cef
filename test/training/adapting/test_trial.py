"""When new weights are better: passes on the same frames, in pairs."""
from dataclasses import dataclass

import numpy as np
import pytest

from specvla_ros.recordings.episode import RecordedEpisode, Recording
from specvla_ros.training.adapting.split import Part
from specvla_ros.training.adapting.trial import Comparison, is_kept, play


@dataclass
class Trace:
    target_passes: int


@dataclass
class Acted:
    trace: Trace
    tokens: tuple = (1,)


def acted(*passes):
    return [[Acted(Trace(count)) for count in stretch] for stretch in passes]


def compared(before, after):
    return Comparison.of('strict', ('glance', 'glance'), acted(*before), acted(*after))


def test_an_interval_is_students_over_the_differences_of_the_stretches():
    found = compared([[4, 4], [2, 4], [3, 3]], [[3, 3], [2, 2], [3, 1]])
    # differences −1, −1, −1: no spread
    assert (found.before, found.after) == (pytest.approx(10 / 3), pytest.approx(7 / 3))
    assert found.change == pytest.approx(-30) == found.low == found.high
    assert found.is_better and not found.is_worse
    found = compared([[4], [4], [4]], [[1], [2], [3]])
    # mean −2, deviation 1: ± 4.303 / √3 = 2.484 of 4 passes
    assert found.low == pytest.approx(-112.1, abs=0.1)
    assert found.high == pytest.approx(12.1, abs=0.1)
    assert not found.is_better and not found.is_worse


def test_a_single_stretch_has_no_interval_and_decides_nothing():
    found = compared([[4, 4]], [[1, 1]])
    assert found.low is None and not found.is_better
    assert 'no interval' in str(found)


def test_stretches_count_alike_and_the_same_tokens_are_counted():
    before = acted([2, 2], [4])
    before[0][0].tokens = (9,)
    found = Comparison.of('strict', ('history', 'glance'), before, acted([2, 2], [4]))
    assert found.before == 3 and (found.actions, found.same) == (3, 2)
    assert str(found).startswith('strict (history and glance): 3.00 → 3.00 passes an action')


@pytest.mark.parametrize('strict, relaxed, kept', [
    (-1, 0, True), (0, -1, True), (-1, 1, False), (0, 0, False), (1, -1, False), (-1, -1, True)])
def test_weights_are_kept_if_better_under_one_rule_and_worse_under_none(strict, relaxed, kept):
    old = [[3, 4], [4, 5], [3, 5], [4, 4]]
    found = [compared(old, [[passes + change for passes in stretch] for stretch in old])
             for change in (strict, relaxed)]
    assert is_kept(found) is kept


def test_all_actors_see_the_same_stretch_in_order_and_begin_anew_with_each_part():
    class Actor:
        def __init__(self):
            self.seen = []

        def reset(self):
            self.seen.append('reset')

        def act(self, image, instruction, stamp):
            self.seen.append((int(image[0, 0, 0]), instruction, stamp))
            return Acted(Trace(1))

    def read(start, stop):
        return (np.full((2, 2, 3), number, np.uint8) for number in range(start, stop))

    episode = RecordedEpisode('e', 'push', 20, read, stamps=np.arange(20) / 10)
    source = Recording('bag', 'bag', 's', (episode,))
    actors = {'before': Actor(), 'after': Actor()}
    found = play(actors, [Part(source, episode, 0, 10), Part(source, episode, 10, 13)], frames=8)
    assert actors['before'].seen == actors['after'].seen == [
        'reset', *((n, 'push', pytest.approx(n / 10)) for n in (3, 4, 5, 6)),
        'reset', *((n, 'push', pytest.approx(n / 10)) for n in (10, 11, 12))]
    assert [len(stretch) for stretch in found['after']] == [4, 3]
