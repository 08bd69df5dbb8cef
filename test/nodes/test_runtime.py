"""What every node of ours stands on."""
import os
import re
import subprocess
import sys

import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes import ros_environment


def test_spinning_leaves_nothing_behind(start):
    node = start('spinning_node.py')
    assert node.wait() == 0
    more, = re.findall(r'(-?\d+) more objects', node.output)
    assert int(more) < 100  # after a thousand callbacks


def refusal(*arguments, module='bag_player_node', **environment):
    """Start a node on what it can't use; return the one line it says, after exit code 2."""
    done = subprocess.run(
        [sys.executable, '-m', f'specvla_ros.nodes.{module}', *arguments], text=True,
        capture_output=True, timeout=120,
        env={**os.environ, 'ROS_DOMAIN_ID': '1', **environment})  # ended before anything is sent
    assert done.returncode == 2, done.stderr
    line, = (done.stdout + done.stderr).splitlines()
    level, text = re.fullmatch(r'\[(\w+)\] \[[\d.]+\] \[\w+\]: (.*)', line).groups()
    assert level == 'FATAL' and '/project/' not in text
    return text


@pytest.mark.parametrize('rule', [
    '__ns:=left', '__ns:=/9', '__ns:=/a//b', 'image:=/my cam', 'image:=a//b', '__node:=my node',
    'image'])
def test_a_bad_name_is_one_line(rule):
    text = refusal('--ros-args', '-r', rule)
    assert f"remap rule '-r {rule}' can not be read" in text and 'FROM:=TO' in text


@pytest.mark.parametrize('arguments, words', [
    (['-p', 'use_sim_time:=maybe'], "'use_sim_time' to 'maybe'"),
    (['-p', 'rate=3'], 'write NAME:=VALUE'),
    (['--params-file', '/nowhere.yaml'], '/nowhere.yaml'),
    (['--log-level', 'loud'], 'allowed: debug, info, warn, error, fatal'),
    (['-e', 'no/slash'], 'Enclave name'),
    (['-r', '__ns:=/a/'], 'namespace'),  # passes rcl's parser
    (['--bogus'], '--bogus')])
def test_a_bad_ros_argument_is_one_line(arguments, words):
    assert words in refusal('--ros-args', *arguments)


def test_a_broken_parameter_file_is_one_line(tmp_path):
    path = tmp_path / 'params.yaml'
    path.write_text('a: [b')
    assert str(path) in refusal('--ros-args', '--params-file', str(path))


def test_parameters_without_ros_args_are_not_ignored():
    assert "unknown argument '-p'" in refusal('-p', 'bag:=drive1')


@pytest.mark.parametrize('module', [
    'policy_node.node', 'libero_bridge.node', 'bag_player_node', 'rerun_node', 'top_node'])
def test_every_node_refuses_a_bad_domain(module):
    assert 'ROS_DOMAIN_ID is' in refusal(module=module, ROS_DOMAIN_ID='abc')


@pytest.mark.parametrize('name, value', [
    ('ROS_DOMAIN_ID', 'abc'), ('ROS_DOMAIN_ID', '-1'), ('ROS_DOMAIN_ID', '233'),
    ('ROS_DOMAIN_ID', '1.5'), ('ROS_DOMAIN_ID', '²'), ('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LAN'),
    ('RCUTILS_LOGGING_USE_STDOUT', 'yes')])
def test_a_bad_environment_is_refused(name, value):
    with pytest.raises(SpecVLAError, match=f'{name} is {value!r}, must be'):
        ros_environment.check({name: value})


def test_a_good_environment_is_none_of_our_business():
    ros_environment.check({'ROS_DOMAIN_ID': '232', 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'})
    ros_environment.check({'ROS_DOMAIN_ID': '', 'RCUTILS_LOGGING_USE_STDOUT': '1'})


def test_a_middleware_that_is_not_there_is_one_line():
    text = refusal(RMW_IMPLEMENTATION='rmw_nowhere')
    assert "RMW_IMPLEMENTATION is 'rmw_nowhere', installed: rmw_fastrtps_cpp" in text


def test_parameters_of_another_namespace_end_the_node(tmp_path):
    path = tmp_path / 'params.yaml'
    path.write_text('bag_player_node:\n  ros__parameters:\n    rate: 1.0\n')
    text = refusal('--ros-args', '--params-file', str(path), '-r', '__ns:=/left')
    assert 'does not reach this node, which is /left/bag_player_node' in text
