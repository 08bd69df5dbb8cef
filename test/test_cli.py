"""The `specvla` command: what it lists, what it imports, and how errors look."""
from dataclasses import dataclass
import importlib
import subprocess
import sys
import types

import pytest

from specvla_ros import __version__, cli


@dataclass(frozen=True)
class Settings:
    """Do something."""

    trials: int = 5
    """Episodes a task."""


@pytest.fixture
def command(monkeypatch):
    """Register a subcommand `probe`; the test sets what its `run` does."""
    module = types.ModuleType('probe_module')
    module.Settings = Settings
    module.run = lambda settings: 0
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli.COMMANDS, 'probe',
                        cli.Command(module.__name__, 'Settings', 'a probe'))
    return module


def error_line(capsys):
    """Return the one line on stderr; nothing else may be there."""
    captured = capsys.readouterr()
    assert captured.out == ''
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize('words', [[], ['--help'], ['-h'], ['help']])
def test_help_lists_every_command(words, capsys):
    assert cli.main(words) == 0
    listed = capsys.readouterr().out
    assert all(f'  {name} ' in listed for name in cli.COMMANDS)


def test_help_of_a_group_lists_its_commands(capsys):
    assert cli.main(['train', '--help']) == 0
    listed = capsys.readouterr().out
    assert 'train target' in listed and 'train drafter' in listed and 'collect ' not in listed


def test_eagles_training_has_its_name_too(capsys):
    assert cli.main(['train', 'eagle', '--help']) == 0
    assert 'Train an EAGLE drafter' in capsys.readouterr().out


def test_a_drafters_training_is_one_file_more(tmp_path, monkeypatch):
    (tmp_path / 'training').mkdir()
    (tmp_path / 'training' / 'train_two_heads.py').write_text('"""Teach two heads.\n\nMore."""\n')
    (tmp_path / 'training' / 'train_glance.py').write_text('')  # has a line of its own
    monkeypatch.setattr(cli, '__file__', str(tmp_path / 'cli.py'))
    assert cli._other_trainings() == {'train two_heads': cli.Command(
        'specvla_ros.training.train_two_heads', 'TrainTwoHeadsArgs', 'Teach two heads.')}


def test_version(capsys):
    assert cli.main(['--version']) == 0
    assert capsys.readouterr().out == f'specvla {__version__}\n'


def test_help_imports_nothing_heavy():
    probe = ('import sys; from specvla_ros import cli; cli.main(["--help"]); '
             'sys.exit(bool({"torch", "numpy", "rclpy", "tyro", "rich"} & set(sys.modules)))')
    assert subprocess.run([sys.executable, '-c', probe], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_every_command_is_implemented(name, capsys):
    command = cli.COMMANDS[name]
    assert cli.main([*name.split(), '--help']) == 0
    assert f'usage: specvla {name}' in capsys.readouterr().out
    assert callable(importlib.import_module(command.module).run)


@pytest.mark.parametrize('name', ['doctor', 'demo', 'eval', 'bench', 'overhead', 'calibrate',
                                  'collect', 'record', 'replay'])
def test_its_help_needs_neither_torch_nor_ros(name):
    probe = ('import sys; from specvla_ros import cli; code = cli.main(sys.argv[1:]); '
             'sys.exit(code or 10 * bool({"torch", "rclpy", "robosuite"} & set(sys.modules)))')
    done = subprocess.run([sys.executable, '-c', probe, name, '--help'],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_settings_reach_the_command_and_its_exit_code_comes_back(command):
    seen = []
    command.run = lambda settings: seen.append(settings) or 3
    assert cli.main(['probe', '--trials', '7']) == 3
    assert seen == [Settings(trials=7)]


@pytest.mark.parametrize('words, said', [
    (['evla'], "error: no command 'evla', did you mean eval?"),
    (['train'], "error: no command 'train', did you mean train target or train drafter or train "
     'glance or train retrieval?'),
    (['train', 'x'], "error: no command 'train x', did you mean train target or train drafter or "
     'train glance or train retrieval?'),
    (['probe', '--trials', 'x'],
     'error: Error parsing --trials: invalid literal for int() with base 10: '
     "'x'; see `specvla probe --help`"),
    (['probe', '--nothing-like-that'],
     'error: Unrecognized options: --nothing-like-that; see `specvla probe --help`'),
])
def test_a_wrong_command_line_gets_one_line_and_code_2(command, words, said, capsys):
    assert cli.main(words) == 2
    assert error_line(capsys) == said


def test_an_unknown_command_is_answered_with_those_there_are(capsys):
    assert cli.main(['xyz']) == 2
    line = error_line(capsys)
    assert all(name in line for name in cli.COMMANDS)


@pytest.mark.parametrize('error, said', [
    (ValueError('no task 12\n  in libero_object'), 'error: no task 12 in libero_object'),
    (ValueError(), 'error: ValueError'),
    (FileNotFoundError(2, 'No such file or directory', '/x/y'),
     'error: No such file or directory: /x/y'),
    (FileNotFoundError('no checkpoint in /x'), 'error: no checkpoint in /x'),
    (OSError(28, 'No space left on device'), 'error: No space left on device'),
    (ModuleNotFoundError("No module named 'robosuite'", name='robosuite'),
     'error: Python module robosuite is not installed: run `make setup`, or see requirements/ '
     'for what it belongs to'),
    (ImportError('numpy.core.multiarray failed\nto import'),
     "error: a Python module can't be loaded (numpy.core.multiarray failed to import): `specvla "
     'doctor` says which'),
])
def test_errors_of_the_user_get_one_line_and_code_2(command, error, said, capsys):
    def run(settings):
        raise error
    command.run = run
    assert cli.main(['probe']) == 2
    assert error_line(capsys) == said


def test_a_traceback_can_be_asked_for(command, monkeypatch):
    def run(settings):
        raise ValueError('deep inside')
    command.run = run
    monkeypatch.setenv('SPECVLA_TRACEBACK', '1')
    with pytest.raises(ValueError, match='deep inside'):
        cli.main(['probe'])


def test_our_own_bugs_are_not_dressed_up_as_bad_input(command):
    def run(settings):
        raise AttributeError('a bug')
    command.run = run
    with pytest.raises(AttributeError):
        cli.main(['probe'])


def test_interruption_ends_with_130(command, capsys):
    def run(settings):
        raise KeyboardInterrupt
    command.run = run
    assert cli.main(['probe']) == 130
    assert error_line(capsys) == 'interrupted'


def test_a_reader_that_went_away_is_no_error():
    script = f'{sys.executable} -m specvla_ros --help | true'
    done = subprocess.run(['bash', '-o', 'pipefail', '-c', script], capture_output=True, text=True)
    assert done.stderr == ''
