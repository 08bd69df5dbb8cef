"""The ROS 2 side: the only folder that imports rclpy. Thin nodes around ROS-free work."""

from specvla_ros.nodes.ros_environment import check_middleware

check_middleware()  # before rclpy is loaded, which would end the process in words of its own
