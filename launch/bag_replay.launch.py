"""Start the policy, and a recorded bag in place of camera and user; ends when one of them ends."""

from specvla_ros.nodes import bag_player_parameters
from specvla_ros.nodes.launching import launch_description, LaunchedNode, without
from specvla_ros.nodes.policy_node import settings as policy_settings


def generate_launch_description():
    """Return the launch description; see `ros2 launch ... --show-args` for its arguments."""
    return launch_description(
        LaunchedNode('bag_player_node', bag_player_parameters.PARAMETERS, file='bag_player.yaml',
                     required=('bag',)),
        # The player publishes raw images only.
        LaunchedNode('policy_node', without(policy_settings.PARAMETERS, 'image_transport'),
                     file='policy.yaml', file_argument='policy_params_file'),
        end_together=True)
