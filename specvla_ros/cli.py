"""
The `specvla` command: finds the module behind a subcommand, and turns errors into one line.

Only the module of the subcommand at hand is imported, so that `specvla --help` answers at once and
`specvla doctor` runs where the simulator isn't installed. Each of these modules offers a dataclass
of arguments and `run(arguments) -> exit code`.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
import contextlib
from dataclasses import dataclass
import difflib
import importlib
import io
import os
from pathlib import Path
import re
import sys

from specvla_ros.errors import one_line

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@dataclass(frozen=True, slots=True)
class Command:
    """Where a subcommand lives."""

    module: str
    arguments: str
    summary: str


COMMANDS = {
    'demo': Command('specvla_ros.benchmark.episodes.demo', 'DemoArgs',
                    'play LIBERO with two ROS 2 nodes: a table, a video, a plot'),
    'eval': Command('specvla_ros.benchmark.episodes.evaluation', 'EvalArgs',
                    'success, acceptance length and time per action, without ROS'),
    'drift': Command('specvla_ros.benchmark.episodes.sweep', 'DriftArgs',
                     'success while an object drifts, over speed, latency and decoder'),
    'report': Command('specvla_ros.benchmark.episodes.paper.command', 'ReportArgs',
                      "Spec-VLA's tables for our models, beside the paper's own numbers"),
    'bench': Command('specvla_ros.benchmark.latency.bench', 'BenchArgs',
                     'latency per stage, decoders and peers side by side in one run'),
    'calibrate': Command('specvla_ros.benchmark.calibration.command', 'CalibrateArgs',
                         'a preset that keeps within mm and degrees of the target, as promised'),
    'overhead': Command('specvla_ros.benchmark.bag_replay.overhead', 'OverheadArgs',
                        'what ROS adds to an action: image published to action received'),
    'record': Command('specvla_ros.tools.record', 'RecordArgs',
                      'record ROS 2 topics into a rosbag2 folder (MCAP)'),
    'replay': Command('specvla_ros.benchmark.bag_replay.command', 'ReplayArgs',
                      'play a recorded bag to the policy: the same table, always the same tokens'),
    'top': Command('specvla_ros.tools.top', 'TopArgs',
                   'watch a running policy node, live in the terminal'),
    'doctor': Command('specvla_ros.tools.doctor', 'DoctorArgs',
                      "what works on this machine, and what to do about what doesn't"),
    'collect': Command('specvla_ros.training.collect', 'CollectArgs',
                       'record demonstrations of the scripted experts'),
    'adapt': Command('specvla_ros.training.adapting.command', 'AdaptArgs',
                     'teach a drafter from recordings of your robot: bags and data sets'),
    'convert': Command('specvla_ros.tools.convert', 'ConvertArgs',
                       'recordings of a robot to a LeRobot data set'),
    'train target': Command('specvla_ros.training.train_target', 'TrainTargetArgs',
                            'train an OpenVLA on collected demonstrations'),
    'regenerate': Command('specvla_ros.training.regenerate', 'RegenerateArgs',
                          'let a target label the data its drafter learns from'),
    'train drafter': Command('specvla_ros.training.train_eagle', 'TrainEagleArgs',
                             'train EAGLE on what its target says; `train eagle` is the same'),
    'train glance': Command('specvla_ros.training.train_glance', 'TrainGlanceArgs',
                            "train a network that guesses from the image's patches"),
}
# Each drafter's training has the drafter's name; this one was there before there were others.
ALSO = {'train eagle': 'train drafter'}


def _other_trainings() -> dict[str, Command]:
    """
    Find a drafter's training that is no line above: a file ``training/train_NAME.py``.

    It offers ``TrainNAMEArgs`` and ``run``, and its docstring begins with what it does.
    """
    known = {command.module for command in COMMANDS.values()}
    found = {}
    for path in sorted((Path(__file__).parent / 'training').glob('train_*.py')):
        module, name = f'specvla_ros.training.{path.stem}', path.stem.removeprefix('train_')
        if module not in known:
            says = (ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or '').strip()
            arguments = f'Train{name.title().replace("_", "")}Args'
            found[f'train {name}'] = Command(module, arguments, says.partition('\n')[0])
    return found


COMMANDS |= _other_trainings()


class UsageError(ValueError):
    """The command line itself is wrong."""


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run `specvla` and return its exit code.

    :param arguments: what follows the program's name; default: `sys.argv[1:]`
    :return: 0 done, 2 bad input (one `error: ...` line on stderr), 130 interrupted, else the
        subcommand's own
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `specvla eval | head`: the reader has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        if (error.name or '').partition('.')[0] == 'specvla_ros':
            raise
        return _complain(f'Python module {error.name} is not installed: run `make setup`, or see '
                         'requirements/ for what it belongs to')
    except ImportError as error:  # a library that was built for another numpy, say
        if os.environ.get('SPECVLA_TRACEBACK') or 'specvla_ros' in (error.name or ''):
            raise
        return _complain(f"a Python module can't be loaded ({_one_line(error)}): `specvla doctor` "
                         'says which')
    except (ValueError, OSError) as error:
        if os.environ.get('SPECVLA_TRACEBACK'):
            raise
        return _complain(_one_line(error))


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ('-h', '--help', 'help'):
        print(_usage(COMMANDS))
        return 0
    if words[0] == '--version':
        from specvla_ros import __version__
        print(f'specvla {__version__}')
        return 0
    for length in (2, 1):
        name = ' '.join(words[:length])
        name = ALSO.get(name, name)
        if name in COMMANDS:
            return _run(name, words[length:])
    group = {name: command for name, command in COMMANDS.items()
             if name.startswith(f'{words[0]} ')}
    if group and len(words) > 1 and words[1] in ('-h', '--help'):
        print(_usage(group))
        return 0
    given = ' '.join(words[:2]) if group else words[0]
    if near := list(group) or difflib.get_close_matches(given, COMMANDS, n=1):
        raise UsageError(f'no command {given!r}, did you mean {" or ".join(near)}?')
    raise UsageError(f'no command {given!r}; there are {", ".join(COMMANDS)}')


def _run(name: str, words: list[str]) -> int:
    import tyro

    command = COMMANDS[name]
    module = importlib.import_module(command.module)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            settings = tyro.cli(getattr(module, command.arguments), args=words,
                                prog=f'specvla {name}')
    except SystemExit as end:
        if not end.code:
            return 0
        raise UsageError(f'{_first_paragraph(complaint.getvalue())}; see `specvla {name} --help`'
                         ) from None
    return int(module.run(settings) or 0)


def _usage(commands: dict[str, Command]) -> str:
    width = max(map(len, commands))
    return '\n'.join([
        'usage: specvla COMMAND [options]', '',
        *(f'  {name:{width}}  {command.summary}' for name, command in commands.items()), '',
        '`specvla COMMAND --help` lists its options with units and defaults.'])


def _first_paragraph(box: str) -> str:
    """Return what tyro says under the title of its box, on one line: the rest is help text."""
    plain = re.sub(r'\x1b\[[0-9;]*m|[│╭╮╰╯]', '', box)
    title, _, body = plain.strip().partition('\n')
    paragraphs = re.split(r'^\s*[─-]{3,}\s*$', body, flags=re.MULTILINE)
    return next(filter(None, (one_line(part) for part in paragraphs)), title)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = f': {error.filename}' if error.filename is not None else ''
        return one_line(f'{error.strerror}{place}')
    return one_line(error)


def _complain(message: str) -> int:
    print(f'error: {message}', file=sys.stderr)
    return BAD_INPUT


if __name__ == '__main__':
    sys.exit(main())
