"""rosbag2 folders, read and written without ROS: what `specvla record` and `replay` stand on."""
