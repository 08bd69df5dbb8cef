"""
As much of `launch` and `launch_ros` as our launch files use: it runs them, and starts nothing.

Neither is on a package registry. `test_launch_for_real.py` uses the real ones where they are.
"""
from dataclasses import dataclass, field
import sys
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass
class DeclareLaunchArgument:
    name: str
    default_value: Any = None
    description: str = ''
    choices: Any = None


@dataclass
class OpaqueFunction:
    function: Any


@dataclass
class Shutdown:
    reason: str


@dataclass
class LaunchDescription:
    entities: list


@dataclass
class Node:
    package: str
    executable: str
    name: str
    namespace: str
    output: str
    parameters: list
    remappings: list
    ros_arguments: list
    on_exit: Any

    @property
    def files(self):
        return [entry for entry in self.parameters if isinstance(entry, str)]

    @property
    def values(self):
        """What is set by arguments, in place of what the files say."""
        return {name: value for entry in self.parameters if isinstance(entry, dict)
                for name, value in entry.items()}

    def ends_with(self, code, is_shutdown=False):
        """Do what launch does when the process has ended."""
        return self.on_exit(SimpleNamespace(returncode=code),
                            SimpleNamespace(is_shutdown=is_shutdown))


@dataclass
class LaunchFile:
    """A launch file that was read."""

    description: LaunchDescription
    arguments: dict = field(init=False)

    def __post_init__(self):
        declared = [entity for entity in self.description.entities
                    if isinstance(entity, DeclareLaunchArgument)]
        self.arguments = {argument.name: argument for argument in declared}
        assert len(self.arguments) == len(declared), 'an argument is declared twice'

    def start(self, around='', **given):
        """Return the nodes that it starts, by name; `around`: the namespace it is included in."""
        for name, argument in self.arguments.items():
            assert argument.default_value is not None or name in given, f'{name} is missing'
            value = given.setdefault(name, argument.default_value)
            assert not argument.choices or value in argument.choices, f'{name}: {value}'
        context = SimpleNamespace(launch_configurations={'ros_namespace': around, **given})
        return {node.name: node for entity in self.description.entities
                if isinstance(entity, OpaqueFunction) for node in entity.function(context)}


def install(monkeypatch):
    """Let `import launch` and `import launch_ros` find these."""
    for name, contents in {
        'launch': {'LaunchContext': SimpleNamespace, 'LaunchDescription': LaunchDescription},
        'launch.actions': {'DeclareLaunchArgument': DeclareLaunchArgument, 'Shutdown': Shutdown,
                           'OpaqueFunction': OpaqueFunction},
        'launch_ros': {},
        'launch_ros.actions': {'Node': Node},
    }.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, 'specvla_ros.nodes.launching', raising=False)
