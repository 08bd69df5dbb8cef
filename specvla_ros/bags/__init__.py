"""Read and write rosbag2 folders without ROS; `specvla record` and `specvla replay` use it."""
