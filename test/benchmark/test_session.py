"""What a process with ROS in it said before it ended, seen from the command that started it."""
from pathlib import Path
import sys

import pytest

from specvla_ros.benchmark.session import DemoSession, fatal_line, SessionDied
from specvla_ros.errors import SpecVLAError
from specvla_ros.tools.record import RecordArgs, run

LOG = """[INFO] [1795849869.1] [policy_node]: loaded
[FATAL] [1795849869.188231468] [specvla_ros]: the domain is bad: take another
"""


def child(log, code):
    return sys.executable, '-c', f'import sys; sys.stderr.write({log!r}); sys.exit({code})'


def test_the_last_fatal_line_of_a_log_is_found(tmp_path):
    path = tmp_path / 'log'
    for text, line in ((LOG, 'the domain is bad: take another'), ('a\nb\n', ''), ('', '')):
        path.write_text(text)
        assert fatal_line(path) == line


def test_a_session_that_is_refused_before_it_begins_says_why(tmp_path):
    with pytest.raises(SpecVLAError, match='^the domain is bad: take another$'):
        list(DemoSession({}, tmp_path, child(LOG, 2)).events())
    for log, code in ((LOG, 1), ('', 2)):
        with pytest.raises(SessionDied, match=f'ended with exit code {code}'):
            list(DemoSession({}, tmp_path, child(log, code)).events())


def test_a_recorder_without_its_middleware_says_which(tmp_path, monkeypatch):
    monkeypatch.setenv('RMW_IMPLEMENTATION', 'rmw_of_nobody')
    with pytest.raises(SpecVLAError, match="^RMW_IMPLEMENTATION is 'rmw_of_nobody', installed: "):
        run(RecordArgs(tmp_path / 'bag'))
    assert list(Path(tmp_path).iterdir()) == []
