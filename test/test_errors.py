"""Messages are one line, whatever they quote."""

import pytest

from specvla_ros import errors
from specvla_ros.openvla import errors as errors_of_openvla


@pytest.mark.parametrize('one_line', [errors.one_line, errors_of_openvla.one_line])
@pytest.mark.parametrize('said, most, line', [
    (ValueError('  a\n\tb  c\r\n'), None, 'a b c'),
    (ValueError('a\nb c'), 3, 'a b'),
    (KeyError(), 200, 'KeyError'),
    (KeyError('\n'), None, r"'\n'"),
    (OSError(' \n'), None, 'OSError'),
    ('a\nb', None, 'a b'),
    ('\n', None, ''),
])
def test_what_is_said_goes_into_one_line(one_line, said, most, line):
    assert one_line(said, most) == line


@pytest.mark.parametrize('said, line', [
    ((0, 'frame'), '0 frames'), ((1, 'frame'), '1 frame'), ((2, 'frame'), '2 frames'),
    ((1, 'stretch', 'stretches'), '1 stretch'), ((2, 'stretch', 'stretches'), '2 stretches')])
def test_one_is_no_plural(said, line):
    assert errors.counted(*said) == line
