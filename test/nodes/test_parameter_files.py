"""A parameter file that does not reach the node is no secret."""
from types import SimpleNamespace

import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.parameter_files import check, reaches, section_names


class FakeNode:
    def __init__(self, full_name):
        self.full_name, self.warnings = full_name, []

    def get_fully_qualified_name(self):
        return self.full_name

    def get_name(self):
        return self.full_name.rpartition('/')[2]

    def get_logger(self):
        return SimpleNamespace(warning=self.warnings.append)


@pytest.fixture
def write(tmp_path):
    """Give a function that writes a parameter file and returns the command line with it."""
    def write(*sections):
        path = tmp_path / 'params.yaml'
        path.write_text(''.join(
            f'{name}:\n  ros__parameters:\n    safety: safety_arm\n' for name in sections))
        return ['node', '--ros-args', '--params-file', str(path), '-r', '__ns:=/left']
    return write


@pytest.mark.parametrize('section, full_name, expected', [  # as rclpy 7.1.6 does it
    ('/**', '/n', True), ('/**', '/a/b/n', True), ('**', '/a/n', True),
    ('n', '/n', True), ('/n', '/n', True), ('n', '/a/n', False), ('/n', '/a/n', False),
    ('a/n', '/a/n', True), ('/a/n', '/n', False), ('/**/n', '/n', True), ('/**/n', '/a/n', True),
    ('/*/n', '/n', False), ('/*/n', '/a/n', True), ('/*', '/n', True), ('/*', '/a/n', False),
    ('/a/*', '/a/n', True), ('/a/**', '/a/n', True), ('/a/**', '/n', False)])
def test_sections_reach_what_they_reach_in_ros(section, full_name, expected):
    assert reaches(section, full_name) is expected


def test_sections_may_be_nested(tmp_path):
    path = tmp_path / 'params.yaml'
    path.write_text('left:\n  n:\n    ros__parameters: {x: 1}\n/**:\n  ros__parameters: {y: 1}\n')
    assert list(section_names(path)) == ['left/n', '/**']


def test_the_bare_name_of_a_node_in_a_namespace_is_refused(write):
    with pytest.raises(SpecVLAError, match=r'policy_node: does not reach .* /left/policy_node'):
        check(FakeNode('/left/policy_node'), write('/**', 'policy_node'))


def test_a_file_for_other_nodes_is_a_warning(write):
    node = FakeNode('/left/policy_node')
    check(node, write('/right/policy_node', 'driver'))
    warning, = node.warnings
    assert 'says nothing for /left/policy_node: it has /right/policy_node, driver' in warning


@pytest.mark.parametrize('full_name, section', [
    ('/left/policy_node', '/**'), ('/left/policy_node', '/left/policy_node'),
    ('/policy_node', 'policy_node')])
def test_a_file_that_reaches_the_node_is_no_news(write, full_name, section):
    node = FakeNode(full_name)
    check(node, write(section))
    assert not node.warnings
