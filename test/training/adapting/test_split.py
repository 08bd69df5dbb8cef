"""Which parts are learned from and which are measured with."""
import pytest

from specvla_ros.recordings.episode import RecordedEpisode, Recording
from specvla_ros.training.adapting.split import split


def recording(lengths, told=('push',), path='bag'):
    episodes = tuple(RecordedEpisode(f'e{n}', told[n % len(told)], length, lambda a, b: iter(()))
                     for n, length in enumerate(lengths))
    return Recording(path, 'bag', f'sign-{path}', episodes)


def names(parts):
    return {part.name for part in parts}


def test_of_many_episodes_a_fifth_of_each_instruction_is_kept_whole():
    division = split([recording([50] * 20, ('push', 'pull'))])
    assert division.whole and len(division.held_out) == 4
    assert {part.episode.instruction for part in division.held_out} == {'push', 'pull'}
    assert not names(division.learned) & names(division.held_out)
    assert sum(map(len, division.learned + division.held_out)) == 1000
    assert not division.too_little


def test_another_run_and_another_order_choose_alike():
    bags = [recording([50] * 10, path='a'), recording([50] * 10, path='b')]
    assert names(split(bags).held_out) == names(split(bags[::-1]).held_out)


def test_few_long_episodes_are_cut_into_stretches():
    division = split([recording([12_000])])
    assert not division.whole and not division.too_little
    parts = sorted(division.learned + division.held_out, key=lambda part: part.start)
    assert len(parts) == 25 and parts[0].start == 0 and parts[-1].stop == 12_000
    assert all(a.stop == b.start for a, b in zip(parts[:-1], parts[1:]))
    assert len(division.held_out) == 5


@pytest.mark.parametrize('lengths, learned, held_out', [
    ([68], 54, 14), ([1], 1, 1), ([3], 2, 1), ([60, 40], 60, 40)])
def test_too_little_still_leaves_both_sides_something_and_is_called_so(lengths, learned, held_out):
    division = split([recording(lengths)])
    assert {sum(map(len, division.learned)), sum(map(len, division.held_out))} == {
        learned, held_out}
    assert 'are too little, must be at least 500 and 3' in division.too_little


def test_instructions_that_are_said_once_leave_three_parts_to_measure_with():
    division = split([recording([60] * 12, tuple(f'task {n}' for n in range(12)))])
    assert len(division.held_out) == 3 and division.whole


def test_an_episode_without_frames_is_left_out():
    division = split([recording([0, 10])])
    assert names(division.learned) == {'sign-bag/e1_0_8'}
