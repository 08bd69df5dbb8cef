"""Launch files, run by a stand-in for `launch`: what they offer, and what they start."""
import ast
import atexit
import os
from pathlib import Path
import runpy
import subprocess
import sys

import pytest
import yaml

from specvla_ros.data_sets import load_dataset
from specvla_ros.errors import SpecVLAError
from specvla_ros.libero.suites import SUITES
from specvla_ros.nodes import bag_player_node
from specvla_ros.nodes.libero_bridge import node as libero_bridge_node
from specvla_ros.nodes.policy_node import node as policy_node
from test.nodes import fake_launch

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
NODES = {'policy_node': policy_node, 'libero_bridge_node': libero_bridge_node,
         'bag_player_node': bag_player_node}
YAML_FILES = {'policy_node': 'policy.yaml', 'libero_bridge_node': 'libero_bridge.yaml',
              'bag_player_node': 'bag_player.yaml'}
CONVENTIONS = {'namespace', 'params_file', 'use_sim_time', 'log_level'}
NEEDED = {'bag_replay.launch.py': {'bag': '/bags/drive1'}}


@pytest.fixture
def read(monkeypatch):
    """Give a function that reads a launch file."""
    fake_launch.install(monkeypatch)

    def read(name):
        module = runpy.run_path(str(ROOT / 'launch' / name))
        return fake_launch.LaunchFile(module['generate_launch_description']())
    return read


def launch_files():
    return pytest.mark.parametrize('name', [path.name for path in FILES])


def test_there_are_launch_files():
    assert {path.name for path in FILES} >= {
        'policy.launch.py', 'libero_sim.launch.py', 'bag_replay.launch.py'}


@launch_files()
def test_no_logic(name):
    forbidden = (ast.If, ast.For, ast.While, ast.Try, ast.IfExp, ast.Lambda, ast.ListComp)
    tree = ast.parse((ROOT / 'launch' / name).read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, forbidden)]


@launch_files()
def test_arguments_follow_the_conventions(name, read):
    arguments = read(name).arguments
    assert CONVENTIONS <= set(arguments)
    assert all(argument.description for argument in arguments.values())
    assert set(arguments['log_level'].choices) == {'', 'debug', 'info', 'warn', 'error', 'fatal'}


@launch_files()
def test_an_argument_left_alone_changes_nothing(name, read):
    for node in read(name).start(**NEEDED.get(name, {})).values():
        needed = NEEDED.get(name, {}) if node.name == 'bag_player_node' else {}
        assert node.values == needed
        assert node.files == [str(ROOT / 'config' / YAML_FILES[node.name])]
        assert not node.ros_arguments
        assert node.namespace == '/'


@launch_files()
def test_every_argument_moves_something(name, read):
    """Each alone, with the second of its choices or a number within its limits."""
    file, needed = read(name), NEEDED.get(name, {})
    declared = {parameter.name: parameter for node in file.start(**needed)
                for parameter in NODES[node].PARAMETERS}
    alone = {node.name: vars(node) | {'on_exit': None} for node in file.start(**needed).values()}
    for argument in set(file.arguments) - set(needed) - {'params_file', 'policy_params_file'}:
        parameter = declared.get(argument)
        if file.arguments[argument].choices:
            text = file.arguments[argument].choices[2]
        elif argument == 'use_sim_time' or parameter and isinstance(parameter.default, bool):
            text = 'True'
        else:
            text = '1' if parameter is None or parameter.low is None else str(parameter.high)
        given = {**needed, argument: f'a{text}' if argument == 'namespace' else text}
        nodes = file.start(**given).values()
        moved = [node.name for node in nodes
                 if vars(node) | {'on_exit': None} != alone[node.name]]
        assert moved, argument
        for node in nodes:
            if argument in {parameter.name for parameter in NODES[node.name].PARAMETERS}:
                assert type(node.values[argument]) in (type(parameter.default), str), argument


@launch_files()
def test_nodes_and_their_choices_exist(name, read):
    file = read(name)
    for node in file.start(**NEEDED.get(name, {})).values():
        assert (ROOT / 'scripts' / node.executable).is_file()
        for parameter in NODES[node.name].PARAMETERS:
            if parameter.choices and parameter.name in file.arguments:
                assert file.arguments[parameter.name].choices == ['', *parameter.choices]


@pytest.mark.parametrize('name', ['libero_sim.launch.py', 'bag_replay.launch.py'])
def test_what_both_ends_of_a_topic_must_agree_on_is_not_offered(name, read):
    file = read(name)
    assert not {'image_topic', 'image_transport'} & set(file.arguments)
    nodes = file.start(**NEEDED.get(name, {}), namespace='left', use_sim_time='true')
    assert {node.namespace for node in nodes.values()} == {'/left'}
    assert all(node.values['use_sim_time'] is True for node in nodes.values())


def test_the_bag_has_to_be_given(read):
    assert read('bag_replay.launch.py').arguments['bag'].default_value is None


def test_the_simulator_feeds_walls_and_targets(read):
    file = read('libero_sim.launch.py')
    assert file.start()['policy_node'].remappings == [('current_pose', 'eef_pose')]
    frame = next(p for p in libero_bridge_node.PARAMETERS if p.name == 'frame_id').default
    assert frame == load_dataset('libero_object').frame_id


def test_the_camera_is_remapped(read):
    assert not read('policy.launch.py').start()['policy_node'].remappings
    node = read('policy.launch.py').start(image_topic='/camera/image_raw')['policy_node']
    assert node.remappings == [('image', '/camera/image_raw')]


@pytest.mark.parametrize('around, given, namespace, logger', [
    ('', '', '/', 'policy_node'), ('', 'left', '/left', 'left.policy_node'),
    ('', '/a/b', '/a/b', 'a.b.policy_node'), ('robot', 'left', '/robot/left',
                                              'robot.left.policy_node'),
    ('/robot', '', '/robot', 'robot.policy_node'), ('/robot', '/left', '/left',
                                                    'left.policy_node')])
def test_the_log_level_is_that_of_the_node(read, around, given, namespace, logger):
    node = read('policy.launch.py').start(
        around=around, namespace=given, log_level='debug')['policy_node']
    assert node.namespace == namespace
    assert node.ros_arguments == ['--log-level', f'{logger}:=debug']


@pytest.mark.parametrize('text, value', [
    ('true', True), ('True', True), ('TRUE', True), ('1', True),
    ('false', False), ('False', False), ('0', False)])
def test_booleans_are_written_as_people_write_them(read, text, value):
    node = read('policy.launch.py').start(publish_twist=text)['policy_node']
    assert node.values == {'publish_twist': value}


@pytest.mark.parametrize('name, argument, text, words', [
    ('policy.launch.py', 'autostart', 'maybe', "autostart is 'maybe', must be true or false"),
    ('policy.launch.py', 'use_sim_time', 'on', "use_sim_time is 'on', must be true or false"),
    ('policy.launch.py', 'threshold', 'nine', "threshold is 'nine', must be a whole number"),
    ('policy.launch.py', 'threshold', '300', 'threshold is 300, must be from 0 to 255 bins'),
    ('policy.launch.py', 'max_image_age', 'nan', 'max_image_age is nan, must be from 0 to 3600 s'),
    ('policy.launch.py', 'namespace', 'my arm', "namespace is 'my arm', must be parts of"),
    ('policy.launch.py', 'params_file', '/no/such.yaml', "params_file is '/no/such.yaml': there"),
    ('libero_sim.launch.py', 'policy_params_file', '/tmp', "policy_params_file is '/tmp': there"),
    ('bag_replay.launch.py', 'params_file', '', "params_file is '': there is no such file"),
    ('bag_replay.launch.py', 'rate', 'fast', "rate is 'fast', must be a number")])
def test_nothing_starts_on_a_bad_argument(read, name, argument, text, words):
    with pytest.raises(SpecVLAError) as caught:
        read(name).start(**NEEDED.get(name, {}), **{argument: text})
    assert words in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize('name, node', [
    ('libero_sim.launch.py', 'libero_bridge_node'), ('libero_sim.launch.py', 'policy_node'),
    ('bag_replay.launch.py', 'bag_player_node'), ('bag_replay.launch.py', 'policy_node')])
def test_the_launch_ends_with_each_of_its_nodes(read, name, node):
    ended = read(name).start(**NEEDED.get(name, {}))[node]
    shutdown, = ended.ends_with(0)
    assert shutdown.reason == f'{node} has ended'
    with pytest.raises(RuntimeError, match=f'{node} ended with exit code 2'):
        ended.ends_with(2)
    with pytest.raises(RuntimeError, match=f'{node} ended with exit code 137'):
        ended.ends_with(-9)
    assert ended.ends_with(1, is_shutdown=True) is None


def test_a_policy_that_ends_takes_no_other_node_along(read):
    assert not read('policy.launch.py').start()['policy_node'].ends_with(2)


@pytest.mark.parametrize('program, expected', [('/opt/ros/jazzy/bin/ros2', 3), ('pytest', 0)])
def test_ros2_launch_ends_with_the_code_of_the_node(read, monkeypatch, program, expected):
    node = read('policy.launch.py').start()['policy_node']
    at_exit = []
    monkeypatch.setattr(atexit, 'register', at_exit.append)
    monkeypatch.setattr(sys, 'argv', [program])
    node.ends_with(3)
    codes = []
    monkeypatch.setattr(os, '_exit', codes.append)
    for function in at_exit:
        function()
    assert codes == ([expected] if expected else [])


def test_launch_files_need_no_package_from_pip():
    """`ros2` runs in the system's Python, which may not see the virtual environment."""
    code = ('import sys; sys.path.insert(0, "test/nodes"); import fake_launch, pytest\n'
            'with pytest.MonkeyPatch.context() as patch:\n'
            '    fake_launch.install(patch)\n'
            '    import runpy\n'
            f'    for path in {[str(path) for path in FILES]!r}: runpy.run_path(path)\n'
            'assert not {"torch", "rosbags", "apsw", "transformers", "tyro"} & set(sys.modules)')
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT,
                   env={**os.environ, 'PYTHONPATH': str(ROOT)})


@pytest.mark.parametrize('node, file', YAML_FILES.items())
def test_the_yaml_files_hold_every_parameter_with_its_default(node, file):
    content = yaml.safe_load((ROOT / 'config' / file).read_text())
    assert content == {
        '/**': {'ros__parameters': {p.name: p.default for p in NODES[node].PARAMETERS}}}


def test_the_suites_are_liberos():
    suite = next(p for p in libero_bridge_node.PARAMETERS if p.name == 'suite')
    assert suite.choices == SUITES
