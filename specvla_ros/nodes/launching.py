"""
What our launch files share: arguments made of the parameters of nodes, nodes made of arguments.

Every parameter of a node is an argument. One that is not given (or empty, as an including launch
file may hand it on) changes nothing: the YAML file says what holds, and where it doesn't, the
node's default. Imported by launch files only: it needs `launch`, which comes with ROS, and no
package from pip.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import logging
import os
from pathlib import Path
import sys
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch_ros.actions import Node
from rclpy.exceptions import InvalidNamespaceException
from rclpy.validate_namespace import validate_namespace

from specvla_ros.config_folder import config_folder, PACKAGE
from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.parameters import Parameter

_BOOLEANS = {'true': True, 'false': False, '1': True, '0': False}
_LOG_LEVELS = ('debug', 'info', 'warn', 'error', 'fatal')
_SIM_TIME = Parameter('use_sim_time', False, 'take the time from /clock')


@dataclass(frozen=True, slots=True)
class LaunchedNode:
    """
    A node in a launch file.

    name: its own and its executable's. parameters: those that are offered as arguments. file: in
    config/, the default of the argument `file_argument`. required: parameters without which there
    is no such node. topics: topic by the argument that gives it another name. remappings: topic by
    topic, always.
    """

    name: str
    parameters: tuple[Parameter, ...]
    file: str
    file_argument: str = 'params_file'
    required: tuple[str, ...] = ()
    topics: Mapping[str, str] = field(default_factory=dict)
    remappings: Mapping[str, str] = field(default_factory=dict)


def launch_description(*nodes: LaunchedNode, end_together: bool = False) -> LaunchDescription:
    """
    Return a description that starts nodes in one namespace.

    :param end_together: when one node ends, the launch ends; else it waits for all
    """
    arguments = [argument for node in nodes for argument in _arguments(node)]
    shared = [
        _argument('namespace', 'Namespace of the nodes and their topics'),
        _parameter_argument(_SIM_TIME, 'params_file'),
        _argument('log_level', 'Least severe messages that the nodes log. Not given: info',
                  choices=_LOG_LEVELS)]
    return LaunchDescription([*arguments, *shared, OpaqueFunction(function=lambda context: [
        _node(node, context.launch_configurations, end_together) for node in nodes])])


def without(parameters: tuple[Parameter, ...], *names: str) -> tuple[Parameter, ...]:
    """Return the parameters but for those named."""
    return tuple(parameter for parameter in parameters if parameter.name not in names)


def value_of(parameter: Parameter, text: str) -> Any:
    """
    Return the value that the text of an argument means for a parameter.

    :raises SpecVLAError: it means none that the parameter allows
    """
    kind = str if parameter.any_type else type(parameter.default)
    try:
        value = _BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        words = {bool: 'true or false', int: 'a whole number', float: 'a number'}[kind]
        raise SpecVLAError(f'{parameter.name} is {text!r}, must be {words}') from None
    if parameter.low is not None and not parameter.low <= value <= parameter.high:
        raise SpecVLAError(f'{parameter.name} is {text}, must be from {parameter.low:g} to '
                           f'{parameter.high:g} {parameter.unit}'.rstrip())
    return value


def _arguments(node: LaunchedNode) -> list[DeclareLaunchArgument]:
    return [
        *(_parameter_argument(parameter, node.file_argument, parameter.name in node.required)
          for parameter in node.parameters),
        *(_argument(name, f'Topic in place of {topic}')
          for name, topic in node.topics.items()),
        DeclareLaunchArgument(
            node.file_argument, default_value=str(config_folder() / node.file),
            description=f'YAML file with parameters of {node.name}, under /**: to reach it in any '
                        'namespace; an argument that is given holds in place of what it says'),
    ]


def _parameter_argument(
        parameter: Parameter, file_argument: str, required: bool = False) -> DeclareLaunchArgument:
    text = parameter.description[0].upper() + parameter.description[1:]
    unit = f' {parameter.unit}' if parameter.unit else ''
    if parameter.low is not None:
        text += f' [{parameter.low:g} to {parameter.high:g}{unit}]'
    if required:
        return DeclareLaunchArgument(parameter.name, description=text)
    default = parameter.default
    default = str(default).lower() if isinstance(default, bool) else repr(default)
    return _argument(parameter.name, f'{text}. Not given: as {file_argument} says, else {default}',
                     choices=parameter.choices)


def _argument(
        name: str, description: str, choices: tuple[str, ...] = ()) -> DeclareLaunchArgument:
    """Declare an argument that may be left empty."""
    return DeclareLaunchArgument(name, default_value='', description=description,
                                 choices=['', *choices] if choices else None)


def _node(node: LaunchedNode, given: Mapping[str, str], end_together: bool) -> Node:
    """
    Make the action that starts a node.

    :param given: texts of the arguments by name
    :raises SpecVLAError: a text can't be what the argument is for
    """
    namespace = _namespace(given)
    logger = f'{namespace}/{node.name}'.strip('/').replace('/', '.')
    level = given['log_level']
    # a dictionary without entries is no parameter file
    values = {parameter.name: value_of(parameter, given[parameter.name])
              for parameter in (*node.parameters, _SIM_TIME) if given[parameter.name]}
    return Node(
        package=PACKAGE, executable=node.name, name=node.name, namespace=namespace,
        output='screen',
        parameters=[_parameter_file(node.file_argument, given), *([values] if values else [])],
        remappings=[
            *node.remappings.items(),
            *((topic, given[name]) for name, topic in node.topics.items() if given[name])],
        # the node's own messages only: at debug, those of rcl and DDS would bury them
        ros_arguments=['--log-level', f'{logger}:={level}'] if level else [],
        on_exit=_on_exit(node.name, end_together))


def _namespace(given: Mapping[str, str]) -> str:
    """Return the absolute namespace: inside that of a group which includes the launch file."""
    around, inside = given.get('ros_namespace', ''), given['namespace']
    joined = inside if inside.startswith('/') else f'{around}/{inside}'
    namespace = '/' + joined.strip('/')
    try:
        validate_namespace(namespace)
    except InvalidNamespaceException:
        raise SpecVLAError(
            f'namespace is {inside!r}, must be parts of letters, digits and _, joined by /; none '
            'begins with a digit') from None
    return namespace


def _parameter_file(argument: str, given: Mapping[str, str]) -> str:
    """Return the path of a parameter file; launch_ros itself would start the node without it."""
    if not Path(given[argument]).is_file():
        raise SpecVLAError(f'{argument} is {given[argument]!r}: there is no such file; give the '
                           'path of a YAML file like those in config/')
    return given[argument]


def _on_exit(name: str, ends_launch: bool) -> Callable[[Any, LaunchContext], list | None]:
    def on_exit(event: Any, context: LaunchContext) -> list | None:
        if context.is_shutdown:  # it was told to end
            return None
        code = event.returncode if event.returncode >= 0 else 128 - event.returncode
        if code:
            _let_ros2_end_with(code)
        if not ends_launch:
            return None
        if code:
            raise RuntimeError(f'{name} ended with exit code {code}')
        return [Shutdown(reason=f'{name} has ended')]
    return on_exit


def _let_ros2_end_with(code: int) -> None:
    """
    Let `ros2 launch` end with a node's exit code; by itself it knows 0 and 1 only.

    Other programs that run a launch file (tests, say) keep the exit code they have.
    """
    def leave() -> None:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    if Path(sys.argv[0]).name == 'ros2':
        atexit.register(leave)
