"""Start the policy: camera image and instruction in, end-effector deltas out."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare


def generate_launch_description():
    """Return the launch description; `ros2 launch specvla_ros policy.launch.py --show-args`."""
    return LaunchDescription([
        DeclareLaunchArgument(
            'checkpoint', default_value='',
            description='Folder of the OpenVLA checkpoint; empty: the embedded default'),
        DeclareLaunchArgument(
            'decoder', default_value='relaxed',
            description='Preset (ar, strict, relaxed) or path of a YAML file'),
        DeclareLaunchArgument(
            'unnorm_key', default_value='',
            description='Data set whose statistics turn tokens into actions; empty: the only one '
                        'the checkpoint has'),
        DeclareLaunchArgument(
            'device', default_value='auto',
            description='Where the model runs: auto, cpu, cuda or cuda:N'),
        DeclareLaunchArgument(
            'quantization', default_value='none', choices=['none', 'int8', 'int4'],
            description="Of the Llama's weights, for small GPUs; needs torchao"),
        DeclareLaunchArgument(
            'image_topic', default_value='image',
            description='Camera to look through (sensor_msgs/msg/Image)'),
        DeclareLaunchArgument(
            'image_transport', default_value='raw', choices=['raw', 'compressed'],
            description='compressed: look at <image_topic>/compressed instead '
                        '(sensor_msgs/msg/CompressedImage)'),
        DeclareLaunchArgument(
            'safety', default_value='safety',
            description='Envelope of the actions: safety, safety_arm or path of a YAML file'),
        DeclareLaunchArgument(
            'gripper_action', default_value='gripper_cmd',
            description='Action the gripper goals are sent to, if send_gripper_goals is true '
                        '(control_msgs/action/GripperCommand)'),
        DeclareLaunchArgument(
            'autostart', default_value='true', choices=['true', 'false'],
            description='Configure and activate at the start; false: wait for the transitions of '
                        'the lifecycle'),
        DeclareLaunchArgument(
            'params_file',
            default_value=PathJoinSubstitution(
                [FindPackageShare('specvla_ros'), 'config', 'policy.yaml']),
            description='YAML file with the other parameters; those above are taken from here'),
        DeclareLaunchArgument(
            'namespace', default_value='',
            description='Namespace of the node and its topics'),
        DeclareLaunchArgument(
            'use_sim_time', default_value='false', choices=['true', 'false'],
            description='Take the time from /clock'),
        DeclareLaunchArgument(
            'log_level', default_value='info',
            choices=['debug', 'info', 'warn', 'error', 'fatal'],
            description='Least severe messages to log'),
        Node(
            package='specvla_ros',
            executable='policy_node',
            name='policy_node',
            namespace=LaunchConfiguration('namespace'),
            output='screen',
            parameters=[
                LaunchConfiguration('params_file'),
                {
                    'checkpoint': ParameterValue(
                        LaunchConfiguration('checkpoint'), value_type=str),
                    'decoder': ParameterValue(LaunchConfiguration('decoder'), value_type=str),
                    'unnorm_key': ParameterValue(
                        LaunchConfiguration('unnorm_key'), value_type=str),
                    'device': ParameterValue(LaunchConfiguration('device'), value_type=str),
                    'quantization': ParameterValue(
                        LaunchConfiguration('quantization'), value_type=str),
                    'image_transport': ParameterValue(
                        LaunchConfiguration('image_transport'), value_type=str),
                    'safety': ParameterValue(LaunchConfiguration('safety'), value_type=str),
                    'gripper_action': ParameterValue(
                        LaunchConfiguration('gripper_action'), value_type=str),
                    'autostart': ParameterValue(
                        LaunchConfiguration('autostart'), value_type=bool),
                    'use_sim_time': ParameterValue(
                        LaunchConfiguration('use_sim_time'), value_type=bool),
                },
            ],
            remappings=[('image', LaunchConfiguration('image_topic'))],
            arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
        ),
    ])
