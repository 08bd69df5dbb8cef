"""Start a LIBERO simulation and the policy that acts in it; ends when one of them ends."""

from specvla_ros.nodes.launching import launch_description, LaunchedNode, without
from specvla_ros.nodes.libero_bridge import node as libero_bridge_node
from specvla_ros.nodes.policy_node import settings as policy_settings


def generate_launch_description():
    """Return the launch description; see `ros2 launch ... --show-args` for its arguments."""
    return launch_description(
        LaunchedNode('libero_bridge_node', libero_bridge_node.PARAMETERS,
                     file='libero_bridge.yaml'),
        # The bridge publishes raw images only.
        LaunchedNode('policy_node', without(policy_settings.PARAMETERS, 'image_transport'),
                     file='policy.yaml', file_argument='policy_params_file',
                     remappings={'current_pose': 'eef_pose'}),  # walls, and target_pose
        end_together=True)
