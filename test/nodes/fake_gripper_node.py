"""A gripper's controller: a process for the tests. It says what it is told, on stdout."""
import contextlib
import sys
import time

from control_msgs.action import Command, GripperCommand
import rclpy
from rclpy.action import ActionServer, CancelResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor


def execute(handle):
    """Move until it is cancelled, or the process ends."""
    command = Command(handle.request)
    print(f'go to {command.position} with {command.max_effort}', flush=True)
    while rclpy.ok() and not handle.is_cancel_requested:
        time.sleep(0.02)
    if rclpy.ok():
        handle.canceled()
        print('stay here', flush=True)
    return GripperCommand.Result()


def main():
    rclpy.init(args=sys.argv)
    node = rclpy.create_node('hand')
    ActionServer(
        node, GripperCommand, '/hand/gripper_cmd', execute,
        cancel_callback=lambda _: CancelResponse.ACCEPT, callback_group=ReentrantCallbackGroup())
    executor = MultiThreadedExecutor()
    executor.add_node(node)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        executor.spin()


if __name__ == '__main__':
    main()
