"""The ROS 2 side: the only folder that imports rclpy. Thin nodes around ROS-free work."""
