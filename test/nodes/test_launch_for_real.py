"""
Launch files with the real `launch` and `launch_ros`, where ROS is installed.

On the wheels of a package registry there is neither; `test_launch.py` has a stand-in.
"""
from importlib.util import find_spec
import os
from pathlib import Path
import subprocess
import sys

import pytest

# no importorskip: of a file without tests pytest says 5, which ctest takes for a failure
pytestmark = pytest.mark.skipif(
    find_spec('launch_ros') is None, reason='launch, launch_ros come with an apt install of ROS')

ROOT = Path(__file__).parents[2]
# What `ros2 launch` does with a launch file; under its name, which decides about the exit code.
ROS2 = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import AnyLaunchDescriptionSource
path, *arguments = sys.argv[1:]
pairs = [tuple(argument.split(':=', 1)) for argument in arguments]
service = LaunchService(argv=arguments, noninteractive=True)
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    AnyLaunchDescriptionSource(path), launch_arguments=pairs)]))
sys.exit(service.run())
"""


@pytest.fixture
def launch(tmp_path, probe):
    """Give a function that launches a file; it returns the exit code and what was printed."""
    prefix = tmp_path / 'prefix'
    packages = prefix / 'share' / 'ament_index' / 'resource_index' / 'packages'
    packages.mkdir(parents=True)
    (packages / 'specvla_ros').touch()
    (prefix / 'lib').mkdir()
    (prefix / 'lib' / 'specvla_ros').symlink_to(ROOT / 'scripts')
    script = tmp_path / 'ros2'
    script.write_text(ROS2)
    bin_folder = Path(sys.executable).parent
    prefixes = [str(prefix), os.environ.get('AMENT_PREFIX_PATH', sys.prefix)]
    environment = {
        **os.environ, 'AMENT_PREFIX_PATH': os.pathsep.join(prefixes),
        'PATH': os.pathsep.join([str(bin_folder), os.environ['PATH']]),
        'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])}

    def launch(name, **arguments):
        done = subprocess.run(
            [sys.executable, str(script), str(ROOT / 'launch' / name),
             *(f'{key}:={value}' for key, value in arguments.items())],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=240)
        return done.returncode, done.stdout
    return launch


def test_a_bag_ends_the_launch(launch, tmp_path):
    checkpoint = ROOT / 'specvla_ros' / 'checkpoints' / 'libero_object'
    parameters = tmp_path / 'policy.yaml'
    parameters.write_text('/**:\n  ros__parameters:\n    safety: safety_arm\n'
                          f'    checkpoint: {checkpoint}\n    decoder: ar\n')
    code, output = launch('bag_replay.launch.py', bag=ROOT / 'test' / 'data' / 'libero_object_2',
                          policy_params_file=parameters, namespace='left', use_sim_time='False')
    assert code == 0, output
    assert '[left.bag_player_node]: done: 68 frames; all were played' in output
    # what the YAML file says, no argument's default, and said
    assert f'loaded {checkpoint} in' in output and 'decoder ar' in output
    assert 'safety envelope safety_arm: workspace_min_m [0.25, -0.4, 0.02]' in output


def test_the_exit_code_is_that_of_the_node(launch):
    code, output = launch('bag_replay.launch.py', bag='/no/such/bag', log_level='fatal')
    assert code == 2 and '/no/such/bag' in output
    assert 'bag_player_node ended with exit code 2' in output


@pytest.mark.parametrize('name, arguments, words', [
    ('policy.launch.py', {'params_file': '/no/such.yaml'}, "is '/no/such.yaml': there"),
    ('policy.launch.py', {'autostart': 'maybe'}, "autostart is 'maybe', must be true or false"),
    ('policy.launch.py', {'namespace': 'my arm'}, "namespace is 'my arm'"),
    ('bag_replay.launch.py', {}, "'bag'"), ('libero_sim.launch.py', {'mode': 'fast'}, 'lockstep')])
def test_nothing_starts_on_a_bad_argument(launch, name, arguments, words):
    code, output = launch(name, **arguments)
    assert code == 1 and words in output
    assert 'process started' not in output and 'Traceback' not in output
