"""
Write `docs/reference.md`: what the nodes really offer, read off nodes that are made for it.

`python -m specvla_ros.nodes.reference`, in the source root, after a change of a node's interface.
No robot, simulator or network is touched: nodes are made with stand-ins behind them, and only
asked for their ends. What each end is for stands here; all else comes from the code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import os
from pathlib import Path
import sys
from types import SimpleNamespace
from typing import Any

import rclpy
from rclpy.action import get_action_server_names_and_types_by_node
from rclpy.node import Node
from rclpy.qos import QoSProfile

from specvla_ros.data_sets import load_dataset
from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes import bag_player_node, rerun_node
from specvla_ros.nodes.libero_bridge import node as libero_bridge_node
from specvla_ros.nodes.parameters import Parameter
from specvla_ros.nodes.policy_node import node as policy_node
from specvla_ros.nodes.policy_node.settings import PolicySettings
from specvla_ros.nodes.sessions.processes import free_domain

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'reference.md'
COMMAND = '.venv/bin/python -m specvla_ros.nodes.reference'
_BAG = ROOT / 'test' / 'data' / 'libero_object_2'  # any bag will do
# rclpy's own: parameters, lifecycle, logs, time.
_NOT_OURS = ('lifecycle_msgs/', 'rcl_interfaces/', 'rosgraph_msgs/',
             'type_description_interfaces/')

FOR = {
    'policy_node': {
        '/action': 'what the end effector is to do next: metres, rotation vector (rad), gripper '
                   '(1 = open), tokens',
        '/current_pose': 'where the end effector is, in the frame of the actions; for the walls '
                         'of the workspace and for `target_pose`',
        '/decode_report': 'what decoding an action cost: passes, drafts, time per stage',
        '/delta_twist_cmds': 'the action as a velocity: m/s, rad/s',
        '/diagnostics': 'how the node fares, once a second',
        '/emergency_stop': '`true` stops and latches; `false` does nothing',
        '/episode': 'a node that can see that the task is done says so: the goal with this '
                    'instruction succeeds',
        '/gripper_command': '1 (open) or 0 (closed), when it changes',
        '/image': 'the camera; only the newest image counts',
        '/image/compressed': 'the camera as JPEG or PNG, in place of `/image`',
        '/instruction': 'what the robot is told to do; a new one discards the action under way, '
                        'an empty one withdraws it',
        '/policy_node/execute_instruction': 'an instruction as a goal: time limit, feedback, why '
                                            'it ended',
        '/policy_node/reset_emergency_stop': 'ends an emergency stop',
        '/target_pose': 'the present pose, moved by the action (m)',
    },
    'libero_bridge_node': {
        '/action': 'what the simulated arm is to do next',
        '/eef_pose': "where the end effector is (m), in the frame of the robot's base; fit to "
                     "be a policy's `current_pose`",
        '/episode': 'where the episode stands, after the reset and after every control step',
        '/image': "the simulator's camera, upright, in its optical frame",
        '/instruction': "the task's instruction, at the start of an episode",
        '/joint_states': 'joint angles (rad) and finger positions (m)',
        '/libero_bridge_node/start_episode': 'begins the next episode, if `wait_for_start`',
    },
    'bag_player_node': {
        '/action': 'in lockstep, the answer to the last frame',
        '/image': "the bag's frames, stamped when published",
        '/instruction': 'what the bag says, or the parameter',
    },
    'rerun_node': {
        '/action': 'motion, and where the safety envelope changed it',
        '/decode_report': 'passes, acceptance length, time per stage',
        '/diagnostics': 'the state of the policy node',
        '/image': 'the camera',
        '/image/compressed': 'the camera as JPEG or PNG, in place of `/image`',
        '/instruction': 'what the robot is told',
    },
}


@dataclass(frozen=True, slots=True)
class End:
    """One end of a node: of a topic, a service or an action."""

    name: str
    what: str  # publishes, subscribes, service, action
    kind: str  # its type

    @classmethod
    def of(cls, name: str, what: str, kind: type) -> End:
        package, folder = kind.__module__.split('.')[:2]
        return cls(name, what, f'{package}/{folder}/{kind.__name__}')


@dataclass(frozen=True, slots=True)
class Reference:
    """
    How the interface of one node is read.

    needs: parameters without which there is no such node.
    switches: parameters that make ends appear; each is tried alone.
    also: what can't be read off on every machine.
    """

    name: str
    make: Callable[[], Any]
    parameters: tuple[Parameter, ...]
    needs: dict[str, str]
    switches: dict[str, str]
    also: str = ''


def references() -> tuple[Reference, ...]:
    """Return the nodes, with stand-ins behind them."""
    return (
        Reference('policy_node', lambda: policy_node.PolicyNode(_no_policy),
                  policy_node.PARAMETERS, {}, {
                      'image_transport': 'compressed', 'publish_twist': 'true',
                      'publish_pose': 'true', 'publish_gripper': 'true'},
                  'If `send_gripper_goals` is true, it is a client of the action that '
                  '`gripper_action` names, `control_msgs/action/GripperCommand`.\n'),
        Reference('libero_bridge_node', libero_bridge_node.LiberoBridgeNode,
                  libero_bridge_node.PARAMETERS, {}, {}),
        Reference('bag_player_node', bag_player_node.BagPlayerNode,
                  bag_player_node.PARAMETERS, {'bag': str(_BAG)}, {}),
        Reference('rerun_node', lambda: rerun_node.RerunNode(_no_stream),
                  rerun_node.PARAMETERS, {}, {'image_transport': 'compressed'}),
    )


def page() -> str:
    """Return the page."""
    parts = ['# Reference\n\nTopics, services, actions and parameters of the nodes, read off the '
             f'nodes themselves:\n`{COMMAND}` makes this page, and a test\ncompares. Names are '
             "in the node's namespace and can be remapped; rclpy's own services (parameters, "
             'lifecycle,\ntypes) are left out. The interfaces are explained where they are '
             'defined: [action/](../action), [msg/](../msg).\n']
    for reference in references():
        parts += [f'## {reference.name}\n', _ends_table(reference), reference.also,
                  _parameters_table(reference)]
    return '\n'.join(filter(None, parts))


def _no_policy(settings: PolicySettings) -> Any:
    return SimpleNamespace(
        decoder_config=settings.decoder_config, dataset=load_dataset('libero'), chunk=1,
        execute_steps=1)


def _no_stream(*_: Any) -> tuple[Any, rerun_node.RerunLog]:
    stream = SimpleNamespace(flush=lambda: None, disconnect=lambda: None)
    return stream, rerun_node.RerunLog(None, stream, 0)


@contextmanager
def _running(reference: Reference, parameters: dict[str, str]) -> Iterator[Node]:
    arguments = ['--ros-args', '--log-level', 'fatal']
    for name, value in {**reference.needs, **parameters}.items():
        arguments += ['-p', f'{name}:={value}']
    rclpy.init(args=arguments, domain_id=free_domain())
    try:
        node = reference.make()
        try:
            yield node
        finally:
            node.close()
            node.destroy_node()
    finally:
        rclpy.shutdown()


def _ends(node: Node) -> dict[End, set[str]]:
    """Return the ends of a node, each with its qualities of service."""
    ends: dict[End, set[str]] = defaultdict(set)
    for what, ended in (('publishes', node.publishers), ('subscribes', node.subscriptions)):
        for each in ended:
            ends[End.of(each.topic_name, what, each.msg_type)].add(_in_words(each.qos_profile))
    itself = node.get_name(), node.get_namespace()
    for what, named in (
        ('service', node.get_service_names_and_types_by_node(*itself)),
        ('action', get_action_server_names_and_types_by_node(node, *itself)),
    ):
        for name, kinds in named:
            ends[End(name, what, *kinds)].add('')
    return {end: qualities for end, qualities in ends.items()
            if not end.kind.startswith(_NOT_OURS) and '/_action/' not in end.name}


def _in_words(profile: QoSProfile) -> str:
    words = profile.reliability.name, profile.durability.name, f'depth {profile.depth}'
    return ', '.join(words).lower().replace('_', ' ')


def _ends_table(reference: Reference) -> str:
    with _running(reference, {}) as node:
        always = _ends(node)
    found = {end: ('', qualities) for end, qualities in always.items()}
    for name, value in reference.switches.items():
        with _running(reference, {name: value}) as node:
            for end, qualities in _ends(node).items():
                if end not in always:
                    found[end] = f'if `{name}` is {value}: ', qualities
    purposes = FOR[reference.name]
    if unlike := {end.name for end in found} ^ set(purposes):
        raise SpecVLAError(f'{reference.name}: {", ".join(sorted(unlike))} must be explained in '
                           f'{Path(__file__).name}, and nothing else')
    lines = ['| name | | type | quality of service | |', '|---|---|---|---|---|']
    for end in sorted(found, key=lambda end: (end.what, end.name)):
        condition, qualities = found[end]
        lines.append(f'| `{end.name}` | {end.what} | `{end.kind}` | '
                     f'{"; ".join(sorted(qualities))} | {condition}{purposes[end.name]} |')
    return '\n'.join(lines) + '\n'


def _parameters_table(reference: Reference) -> str:
    lines = ['| parameter | default | unit | allowed | may change | |',
             '|---|---|---|---|---|---|']
    for parameter in reference.parameters:
        lines.append(f'| `{parameter.name}` | `{_value(parameter)}` | {parameter.unit} | '
                     f'{_allowed(parameter)} | {_when(parameter)} | {parameter.description} |')
    return '\n'.join(lines) + '\n'


def _value(parameter: Parameter) -> str:
    value = parameter.default
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _allowed(parameter: Parameter) -> str:
    if parameter.choices:
        return ', '.join(f'`{choice}`' for choice in parameter.choices)
    return '' if parameter.low is None else f'{parameter.low:g} … {parameter.high:g}'


def _when(parameter: Parameter) -> str:
    if parameter.changeable:
        return 'any time'
    return 'while unconfigured' if parameter.reloadable else 'never'


def main(path: Path = PAGE) -> int:
    """Write the page."""
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'OFF'
    path.write_text(page(), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main(*map(Path, sys.argv[1:2])))
