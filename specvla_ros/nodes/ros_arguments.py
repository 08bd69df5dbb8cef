"""
The command line of a node, `--ros-args -p NAME:=VALUE …`: read by rcl, refused in one line.

rcl's own parser decides. Its refusal comes as up to three log lines and an exception that names
files of rcl's source; here it becomes a sentence that names the argument and what is allowed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
import re
import sys
import warnings

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.impl.implementation_singleton import rclpy_implementation as implementation
from rclpy.logging import LoggingSeverity, set_logger_level
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from specvla_ros.errors import SpecVLAError

_RCL_ERRORS = (implementation.RCLError, implementation.RMWError, implementation.RCUtilsError)
_REFUSAL = re.compile(r"Couldn't parse ([a-z ]+): '(.*?)'\. Error: (.*)", re.DOTALL)
_SOURCE = re.compile(r',? at \S+:\d+')  # ', at /project/src/rcl/arguments.c:380'
_ALLOWED = {
    'remap rule': 'write FROM:=TO, like image:=/camera/image_raw: names of letters, digits, _ and '
                  '/, parts that begin with a letter, a namespace that begins with /',
    'parameter override rule': 'write NAME:=VALUE, with a value as in YAML',
    'params file': 'give a YAML file like those in config/, with ros__parameters under /**',
    'log level': 'allowed: debug, info, warn, error, fatal',
}


def initialize(args: Sequence[str] | None) -> None:
    """
    Initialise rclpy, without its signal handlers.

    :param args: the command line without the program's name; None: the process's own
    :raises SpecVLAError: an argument can't be read or isn't known
    """
    given = list(sys.argv[1:] if args is None else args)
    with ros_errors_in_one_line('ROS can not start'):
        with _quiet_rcl():
            left = remove_ros_args(given)  # reads them all
        if left:
            raise SpecVLAError(f'unknown argument {left[0]!r}: a node takes ROS arguments only, '
                               'like --ros-args -p NAME:=VALUE -r FROM:=TO')
        rclpy.init(args=given, signal_handler_options=SignalHandlerOptions.NO)


@contextmanager
def ros_errors_in_one_line(what: str) -> Iterator[None]:
    """
    Turn what rcl raises within into a SpecVLAError.

    :param what: has failed, for an error that names no argument
    """
    try:
        with warnings.catch_warnings():  # of what was half made when it failed
            warnings.filterwarnings('ignore', 'Failed to fini', RuntimeWarning)
            yield
    except implementation.UnknownROSArgsError as error:
        raise SpecVLAError(f'unknown ROS argument: {error}; known are -p, -r, --params-file, '
                           '--log-level, -e and what else `ros2 run` explains') from error
    except _RCL_ERRORS as error:
        raise SpecVLAError(_in_words(str(error), what)) from error
    except ParameterException as error:  # of rclpy's own parameters; `declare` explains ours
        raise SpecVLAError(f'{error}; write use_sim_time:=true or false') from error


def _in_words(text: str, what: str) -> str:
    text = _SOURCE.sub('', text)
    if (refusal := _REFUSAL.search(text)) is None:
        return f'{what}: {text}'
    kind, found, why = refusal.groups()
    why = '' if kind == 'log level' or 'lexeme' in why or why == 'error not set' else f' ({why})'
    return f'{kind} {found!r} can not be read{why}; {_ALLOWED.get(kind, "see `ros2 run --help`")}'


@contextmanager
def _quiet_rcl() -> Iterator[None]:
    """Let rcl's logger say nothing: the exception has it all."""
    set_logger_level('rcl', LoggingSeverity.FATAL)
    try:
        yield
    finally:
        set_logger_level('rcl', LoggingSeverity.UNSET)
