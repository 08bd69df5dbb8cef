"""
Launch files against the nodes and the YAML files they name.

The `launch` library is on no package registry, so the files are read here, not run.
"""
import ast
from pathlib import Path

import pytest
import yaml

from specvla_ros.libero.suites import SUITES
from specvla_ros.nodes import bag_player_node, libero_bridge_node, policy_node

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
NODES = {'policy_node': policy_node, 'libero_bridge_node': libero_bridge_node,
         'bag_player_node': bag_player_node}
CONVENTIONS = {'namespace', 'params_file', 'use_sim_time', 'log_level'}


class LaunchFile:
    """The parts of a launch file that can be read off its source."""

    def __init__(self, path):
        self.tree = ast.parse(path.read_text())

    def calls(self, name):
        return [node for node in ast.walk(self.tree)
                if isinstance(node, ast.Call) and getattr(node.func, 'id', None) == name]

    @property
    def arguments(self):
        """Map names of the declared arguments to their keywords."""
        return {call.args[0].value: {k.arg: k.value for k in call.keywords}
                for call in self.calls('DeclareLaunchArgument')}

    @property
    def used(self):
        return {call.args[0].value for call in self.calls('LaunchConfiguration')}

    @property
    def nodes(self):
        """Map executables to the names in their parameters' dictionary."""
        return {keywords['executable'].value: self._parameters(keywords['parameters'])
                for keywords in ({k.arg: k.value for k in call.keywords}
                                 for call in self.calls('Node'))}

    def _parameters(self, value):
        return {key.value for entry in value.elts if isinstance(entry, ast.Dict)
                for key in entry.keys}


def launch_files():
    return pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)


def test_there_are_launch_files():
    assert {path.name for path in FILES} >= {
        'policy.launch.py', 'libero_sim.launch.py', 'bag_replay.launch.py'}


@launch_files()
def test_no_logic(path):
    forbidden = (ast.If, ast.For, ast.While, ast.Try, ast.IfExp, ast.Lambda, ast.ListComp)
    assert not [node for node in ast.walk(LaunchFile(path).tree) if isinstance(node, forbidden)]


@launch_files()
def test_arguments_follow_the_conventions(path):
    file = LaunchFile(path)
    assert CONVENTIONS <= set(file.arguments)
    for name, keywords in file.arguments.items():
        assert {'description', 'default_value'} <= set(keywords), name
    for name in ('use_sim_time', 'log_level'):
        assert 'choices' in file.arguments[name]


@launch_files()
def test_every_argument_is_used_and_every_use_declared(path):
    file = LaunchFile(path)
    assert file.used == set(file.arguments)


@launch_files()
def test_nodes_and_their_parameters_exist(path):
    for executable, parameters in LaunchFile(path).nodes.items():
        assert (ROOT / 'scripts' / executable).is_file()
        declared = {parameter.name for parameter in NODES[executable].PARAMETERS}
        assert parameters - {'use_sim_time'} <= declared


@launch_files()
def test_defaults_and_choices_are_those_of_the_nodes(path):
    file = LaunchFile(path)
    declared = {parameter.name: parameter for executable in file.nodes
                for parameter in NODES[executable].PARAMETERS}
    for name in set(file.arguments) & set(declared):
        keywords, parameter = file.arguments[name], declared[name]
        default = parameter.default
        text = str(default).lower() if isinstance(default, bool) else str(default)
        assert keywords['default_value'].value == text, name
        if parameter.choices:
            assert tuple(c.value for c in keywords['choices'].elts) == parameter.choices, name


@pytest.mark.parametrize('file', ['libero_sim.launch.py', 'bag_replay.launch.py'])
def test_what_is_handed_to_the_policy_exists(file):
    include, = LaunchFile(ROOT / 'launch' / file).calls('IncludeLaunchDescription')
    items = next(k.value for k in include.keywords if k.arg == 'launch_arguments')
    names = {key.value for key in items.func.value.keys}
    assert names <= set(LaunchFile(ROOT / 'launch' / 'policy.launch.py').arguments)


@pytest.mark.parametrize('file, node', [
    ('policy.yaml', policy_node), ('libero_bridge.yaml', libero_bridge_node),
    ('bag_player.yaml', bag_player_node)])
def test_the_yaml_files_hold_every_parameter_with_its_default(file, node):
    content = yaml.safe_load((ROOT / 'config' / file).read_text())
    assert content == {'/**': {'ros__parameters': {p.name: p.default for p in node.PARAMETERS}}}


def test_the_suites_are_liberos():
    suite = next(p for p in libero_bridge_node.PARAMETERS if p.name == 'suite')
    assert suite.choices == SUITES
