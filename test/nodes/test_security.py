"""`config/security/policy.xml` allows the policy node what it has, and nothing else."""
from xml.etree import ElementTree

from specvla_ros.config_folder import config_folder
from specvla_ros.nodes.reference import FOR

# rclpy's own, and what the reference can't read off without control_msgs.
OTHERS = {'/clock', '/gripper_cmd', '/parameter_events', '/rosout',
          *(f'/policy_node/{name}' for name in (
              'transition_event', 'change_state', 'describe_parameters', 'get_available_states',
              'get_available_transitions', 'get_parameter_types', 'get_parameters', 'get_state',
              'get_transition_graph', 'get_type_description', 'list_parameters', 'set_parameters',
              'set_parameters_atomically'))}


def test_the_policy_names_every_end_of_the_node_and_no_other():
    policy = ElementTree.parse(config_folder() / 'security' / 'policy.xml')
    profile = policy.find(".//profile[@node='policy_node']")
    names = {element.text.replace('~', '/policy_node') for element in profile.iter()
             if element.tag in ('topic', 'service', 'action')}
    absolute = {name if name.startswith('/') else f'/{name}' for name in names}
    assert absolute == set(FOR['policy_node']) | OTHERS
