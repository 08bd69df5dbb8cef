"""
Parameter files (`--params-file`), seen from a node: whether they say anything for it.

ROS applies the sections whose name fits the node's full name and ignores all others without a
word. So `policy_node:` reaches `/policy_node`, but not `/left/policy_node`; `/**:` reaches both.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
import re
import sys
from typing import Any

from rclpy.node import Node
import yaml

from specvla_ros.errors import SpecVLAError

_PARAMETERS = 'ros__parameters'
_WILDCARDS = {'*': r'/\w+', '**': r'(/\w+)*'}


def check(node: Node, arguments: Sequence[str] | None = None) -> None:
    """
    Warn of a file that says nothing for this node.

    :param arguments: the command line; None: the process's own
    :raises SpecVLAError: a file names the node without the namespace it is in
    """
    full_name = node.get_fully_qualified_name()
    for path in _files(sys.argv if arguments is None else arguments):
        names = list(section_names(path))
        reached = [name for name in names if reaches(name, full_name)]
        if node.get_name() in names and node.get_name() not in reached:
            raise SpecVLAError(
                f'parameter file {path}: {node.get_name()}: does not reach this node, which is '
                f'{full_name}; write /**: or {full_name}: in its place')
        if names and not reached:
            node.get_logger().warning(
                f'parameter file {path} says nothing for {full_name}: it has '
                f'{", ".join(names)}; write /**: to reach every node')


def reaches(section: str, full_name: str) -> bool:
    """Return whether a section of this name holds for a node of this full name (`/left/node`)."""
    parts = filter(None, section.split('/'))
    pattern = ''.join(_WILDCARDS.get(part, '/' + re.escape(part)) for part in parts)
    return re.fullmatch(pattern, full_name) is not None


def section_names(path: Path) -> Iterator[str]:
    """Yield the names that parameters stand under in a file, like `/**`; nested ones joined."""
    try:
        yield from _names(yaml.safe_load(path.read_text()), '')
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return  # rcl, which has read it by now, knows other files than PyYAML


def _names(content: Any, above: str) -> Iterator[str]:
    for name, below in content.items() if isinstance(content, dict) else ():
        if name == _PARAMETERS:
            yield above
        else:
            yield from _names(below, f'{above}/{name}' if above else str(name))


def _files(arguments: Sequence[str]) -> list[Path]:
    return [Path(value) for flag, value in zip(arguments, arguments[1:], strict=False)
            if flag == '--params-file']
