"""Options that play no part: one line that names them as they were typed in."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.unused_options import refuse_unused


@dataclass
class Part:
    first_width: int = 8


@dataclass
class Args:
    suite: str = ''
    tasks: tuple[int, ...] = ()
    ratio: float = 0.5
    max_steps: int | None = None
    out: Path | None = None
    plot: bool = True
    check: bool = False
    bags: list[str] = field(default_factory=list)
    part: Part = field(default_factory=Part)


NAMES = ('suite', 'tasks', 'ratio', 'max_steps', 'out', 'plot', 'check', 'bags', 'part')


def test_what_holds_its_default_counts_as_not_given():
    refuse_unused(Args(), NAMES, 'so')
    refuse_unused(Args(suite='x'), NAMES[1:], 'so')


@pytest.mark.parametrize('given, typed', [
    ({'suite': 'goal'}, '--suite goal'), ({'tasks': (1, 2)}, '--tasks 1 2'),
    ({'ratio': 0.0}, '--ratio 0'), ({'max_steps': 9}, '--max-steps 9'),
    ({'out': Path('a/b')}, '--out a/b'), ({'plot': False}, '--no-plot'),
    ({'check': True}, '--check'),
])
def test_an_option_is_named_as_it_was_typed_in(given, typed):
    with pytest.raises(SpecVLAError) as caught:
        refuse_unused(Args(**given), NAMES, 'nothing is played')
    assert str(caught.value) == f'{typed} has no effect: nothing is played; leave it out'


def test_an_option_of_a_part_has_the_name_of_the_part_before_it():
    with pytest.raises(SpecVLAError, match='^--part.first-width 9 has no effect'):
        refuse_unused(Part(9), ('first_width',), 'it is there already', 'part.')
