"""The parameters of `bag_player_node`, for launch files too, which have no reader of bags."""

from specvla_ros.nodes.parameters import Parameter

PARAMETERS = (
    Parameter('bag', '', 'rosbag2 folder, or a .mcap or .db3 file'),
    Parameter('recorded_image_topic', '', 'camera in the bag; empty: /image, or the only one '
              'there is'),
    Parameter('recorded_instruction_topic', '/instruction', 'instruction in the bag'),
    Parameter('instruction', '', 'what the robot is told instead; empty: what the bag says'),
    Parameter('rate', 0.0, 'speed of the recording; 0: lockstep, every frame waits for its action',
              unit='times', low=0.0, high=100.0),
    Parameter('action_timeout', 60.0, 'lockstep: without an action for this long the node gives '
              'up', unit='s', low=0.1, high=3600.0),
)
