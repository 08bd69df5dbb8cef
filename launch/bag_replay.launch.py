"""Start the policy and a recorded bag in place of a camera and a user."""

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
            'bag', default_value='',
            description='rosbag2 folder, or a .mcap or .db3 file; has to be given'),
        DeclareLaunchArgument(
            'recorded_image_topic', default_value='',
            description='Camera in the bag; empty: /image, or the only one there is'),
        DeclareLaunchArgument(
            'instruction', default_value='',
            description='What the robot is told; empty: what the bag says'),
        DeclareLaunchArgument(
            'rate', default_value='0.0',
            description='Speed of the recording [times]; 0.0: every frame waits for its action'),
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
            default_value=PathJoinSubstitution([share, 'config', 'bag_player.yaml']),
            description="YAML file with the player's other parameters; bag, "
                        'recorded_image_topic, instruction and rate are taken from here'),
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
            executable='bag_player_node',
            name='bag_player_node',
            namespace=LaunchConfiguration('namespace'),
            output='screen',
            parameters=[
                LaunchConfiguration('params_file'),
                {
                    'bag': ParameterValue(LaunchConfiguration('bag'), value_type=str),
                    'recorded_image_topic': ParameterValue(
                        LaunchConfiguration('recorded_image_topic'), value_type=str),
                    'instruction': ParameterValue(
                        LaunchConfiguration('instruction'), value_type=str),
                    'rate': ParameterValue(LaunchConfiguration('rate'), value_type=float),
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
