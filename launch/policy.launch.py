"""Start the policy: camera image and instruction in, end-effector deltas out."""

from specvla_ros.nodes.launching import launch_description, LaunchedNode
from specvla_ros.nodes.policy_node.settings import PARAMETERS


def generate_launch_description():
    """Return the launch description; `ros2 launch specvla_ros policy.launch.py --show-args`."""
    return launch_description(LaunchedNode(
        'policy_node', PARAMETERS, file='policy.yaml', topics={'image_topic': 'image'}))
