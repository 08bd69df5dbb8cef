"""
What the environment tells ROS, checked before ROS reads it; needs no rclpy.

rcl takes some bad values for others without a word (domain -1 is domain 0), ends the process on
others (a middleware that isn't there), and Fast DDS aborts on a domain that is too high.
"""

from collections.abc import Mapping
import os
from pathlib import Path
import sys
import time

from specvla_ros.errors import one_line, SpecVLAError

EXIT_BAD_INPUT = 2
_DOMAINS = range(233)  # ports of domain 233 would lie above 65535
_CHOICES = {
    'ROS_AUTOMATIC_DISCOVERY_RANGE': ('SUBNET', 'LOCALHOST', 'OFF', 'SYSTEM_DEFAULT'),
    'ROS_LOCALHOST_ONLY': ('0', '1'),
    'RCUTILS_COLORIZED_OUTPUT': ('0', '1'),
    'RCUTILS_LOGGING_BUFFERED_STREAM': ('0', '1'),
    'RCUTILS_LOGGING_USE_STDOUT': ('0', '1'),
}


def check(environment: Mapping[str, str] = os.environ) -> None:
    """
    See that the domain, the range of discovery and the settings of the log have allowed values.

    :raises SpecVLAError: one has not
    """
    domain = environment.get('ROS_DOMAIN_ID', '')
    if domain and not (domain.isascii() and domain.isdigit() and int(domain) in _DOMAINS):
        raise SpecVLAError(f'ROS_DOMAIN_ID is {domain!r}, must be a whole number from 0 to '
                           f'{_DOMAINS[-1]}; the same one on every machine of the robot')
    for name, choices in _CHOICES.items():
        if (value := environment.get(name, '')) and value not in choices:
            raise SpecVLAError(f'{name} is {value!r}, must be one of {", ".join(choices)}')


def check_middleware(environment: Mapping[str, str] = os.environ) -> None:
    """
    End the process, as loading rclpy would, if the middleware that is asked for isn't there.

    :raises SystemExit: with exit code 2, after one line
    """
    wanted, there = environment.get('RMW_IMPLEMENTATION', ''), _middlewares(environment)
    if wanted and there and wanted not in there:
        say_fatal('specvla_ros', f'RMW_IMPLEMENTATION is {wanted!r}, installed: '
                  f'{", ".join(sorted(there))}; unset it, or install that middleware')
        raise SystemExit(EXIT_BAD_INPUT)


def say_fatal(name: str, text: str) -> None:
    """Write a fatal log line as ROS does, without ROS."""
    now = time.time()
    print(f'[FATAL] [{now:.9f}] [{name}]: {one_line(text)}', file=sys.stderr, flush=True)


def _middlewares(environment: Mapping[str, str]) -> set[str]:
    """Return the middlewares installed under the ament prefixes; the wheels set none."""
    prefixes = environment.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    folders = [Path(prefix) / 'share' / 'ament_index' / 'resource_index' / 'rmw_typesupport'
               for prefix in (*filter(None, prefixes), sys.prefix)]
    found = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}
    return found - {'rmw_implementation'}  # which loads one of the others
