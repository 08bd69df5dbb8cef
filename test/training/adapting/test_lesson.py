"""How many threads teach, and how many frames a step takes."""

import os
from pathlib import Path

import pytest

from specvla_ros.training.adapting.arguments import AdaptArgs
from specvla_ros.training.adapting.lesson import Teaching


@pytest.mark.parametrize('lanes, frames, expected', [
    (2, 500, (2, 32)), (3, 500, (3, 30)), (2, 9, (2, 8)), (4, 3, (3, 3)), (100, 500, (32, 32))])
def test_a_step_takes_as_many_frames_in_each_lane(lanes, frames, expected):
    here = Path()
    teaching = Teaching(here, '', here, frames, here, here, 1.0, 1.0, lanes, 'cpu', 0)
    told = teaching.arguments(32)
    assert (told['lanes'], told['batch']) == expected


def test_workers_of_a_cluster_are_no_threads_that_teach_here():
    here = len(os.sched_getaffinity(0))
    assert AdaptArgs((), lanes=here + 30, ray='auto').teaching_lanes() == here
    assert AdaptArgs((), lanes=1, ray='auto').teaching_lanes() == 1
    assert AdaptArgs((), lanes=here + 30).teaching_lanes() == here + 30
