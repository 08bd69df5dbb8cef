"""Start a LIBERO simulation and the policy that acts in it."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare


def generate_launch_description():
    """Return the launch description; see `ros2 launch ... --show-args` for its arguments."""
    share = FindPackageShare('specvla_ros')
    return LaunchDescription([
        DeclareLaunchArgument(
            'suite', default_value='libero_object',
            choices=['libero_spatial', 'libero_object', 'libero_goal', 'libero_10', 'libero_90'],
            description='LIBERO suite to play'),
        DeclareLaunchArgument(
            'tasks', default_value='0',
            description="Tasks to play: a number, a text like '0,2,5-7', or all"),
        DeclareLaunchArgument(
            'states', default_value='0',
            description='Stored initial states to play of each task, written like tasks'),
        DeclareLaunchArgument(
            'mode', default_value='lockstep', choices=['lockstep', 'realtime'],
            description='Whether the simulation waits for each action'),
        DeclareLaunchArgument(
            'checkpoint', default_value='',
            description='Folder of the OpenVLA checkpoint; empty: the embedded default'),
        DeclareLaunchArgument(
            'decoder', default_value='relaxed',
            description='Preset (ar, strict, relaxed) or path of a YAML file'),
        DeclareLaunchArgument(
            'device', default_value='auto',
            description='Where the model runs: auto, cpu, cuda or cuda:N'),
        DeclareLaunchArgument(
            'quantization', default_value='none', choices=['none', 'int8', 'int4'],
            description="Of the Llama's weights, for small GPUs; needs torchao"),
        DeclareLaunchArgument(
            'params_file',
            default_value=PathJoinSubstitution([share, 'config', 'libero_bridge.yaml']),
            description="YAML file with the bridge's other parameters; suite, tasks, states and "
                        'mode are taken from here'),
        DeclareLaunchArgument(
            'policy_params_file',
            default_value=PathJoinSubstitution([share, 'config', 'policy.yaml']),
            description="YAML file with the policy's other parameters"),
        DeclareLaunchArgument(
            'namespace', default_value='',
            description='Namespace of the nodes and their topics'),
        DeclareLaunchArgument(
            'use_sim_time', default_value='false', choices=['true', 'false'],
            description='Take the time from /clock'),
        DeclareLaunchArgument(
            'log_level', default_value='info',
            choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='Least severe messages to log'),
        Node(
            package='specvla_ros',
            executable='libero_bridge_node',
            name='libero_bridge_node',
            namespace=LaunchConfiguration('namespace'),
            output='screen',
            parameters=[
                LaunchConfiguration('params_file'),
                {
                    'suite': ParameterValue(LaunchConfiguration('suite'), value_type=str),
                    'tasks': ParameterValue(LaunchConfiguration('tasks'), value_type=str),
                    'states': ParameterValue(LaunchConfiguration('states'), value_type=str),
                    'mode': ParameterValue(LaunchConfiguration('mode'), value_type=str),
                    'use_sim_time': ParameterValue(
                        LaunchConfiguration('use_sim_time'), value_type=bool),
                },
            ],
            arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        ),
        # Last: the arguments of an include stay set for what comes after it.
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(
                PathJoinSubstitution([share, 'launch', 'policy.launch.py'])),
            launch_arguments={
                'checkpoint': LaunchConfiguration('checkpoint'),
                'decoder': LaunchConfiguration('decoder'),
                'device': LaunchConfiguration('device'),
                'quantization': LaunchConfiguration('quantization'),
                'params_file': LaunchConfiguration('policy_params_file'),
                'namespace': LaunchConfiguration('namespace'),
                'use_sim_time': LaunchConfiguration('use_sim_time'),
                'log_level': LaunchConfiguration('log_level'),
            }.items(),
        ),
    ])
