"""
Start a node, run its work, and end it cleanly: one way for all our nodes.

A node's work (inference, simulation) runs in the main thread, because that is where Python handles
signals: Ctrl-C, SIGTERM and the end of the terminal (SIGHUP) end it at once and in order, whatever
it is doing, also while a checkpoint loads; a process that is killed tells no arm to stand still.
Under `nohup` a node outlives its terminal.
Callbacks run in an executor thread beside it. rclpy's own signal handlers stay off: they would
only tell the executor.
"""

from collections.abc import Callable, Sequence
import signal
import threading
import traceback
from typing import Any, Protocol

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node

from specvla_ros.errors import one_line, SpecVLAError
from specvla_ros.nodes import ros_environment
from specvla_ros.nodes.ros_arguments import initialize, ros_errors_in_one_line
from specvla_ros.nodes.ros_environment import EXIT_BAD_INPUT

EXIT_OK, EXIT_FAULT = 0, 1
_JOIN_TIMEOUT = 5.0


class WorkingNode(Protocol):
    """A `rclpy.node.Node` with work of its own."""

    def work(self) -> None:
        """Run in the main thread until there is nothing left to do."""

    def close(self) -> None:
        """Free what the work held; called once, also after a fault."""


def run(
        name: str, make_node: Callable[[], WorkingNode], args: Sequence[str] | None = None,
        on_fault: Callable[[BaseException], None] | None = None) -> int:
    """
    Make a node, spin it and run its work; return the process's exit code.

    0 when the work ended by itself, on Ctrl-C, SIGTERM and SIGHUP. 2 on bad input: a SpecVLAError,
    what ROS refuses in the environment and the arguments, or, while the node is being made, any
    ValueError or FileNotFoundError; one fatal log line says what is wrong. 1 on any other fault,
    with its traceback in the log.

    :param name: of the logger until there is a node
    :param on_fault: called with what made the exit code other than 0
    """
    def report(error: BaseException) -> int:
        if on_fault is not None:
            on_fault(error)
        return _log_fault(name, error)

    _handle_signals(signal.default_int_handler)  # KeyboardInterrupt, for the others as well
    node, spinner, code = None, None, EXIT_OK
    try:
        ros_environment.check()
        initialize(args)
        node = _make(make_node)
        spinner = _Spinner(node)
        node.work()
    except KeyboardInterrupt:
        if spinner is not None and spinner.fault is not None:
            code = report(spinner.fault)
    except Exception as error:
        code = report(error)
    finally:
        _handle_signals(signal.SIG_IGN)  # what follows is short
        try:
            if spinner is not None:
                spinner.stop()
            if node is not None:
                node.close()
                node.destroy_node()
        except Exception as error:
            code = code or report(error)
        rclpy.try_shutdown()
    return code


def _handle_signals(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup's
            signal.signal(number, handler)


def _make(make_node: Callable[[], WorkingNode]) -> WorkingNode:
    try:
        with ros_errors_in_one_line('the node can not be made'):
            return make_node()
    except (ValueError, FileNotFoundError) as error:
        raise SpecVLAError(str(error)) from error


def _log_fault(name: str, error: BaseException) -> int:
    if isinstance(error, SpecVLAError):
        if rclpy.ok():
            get_logger(name).fatal(one_line(error))
        else:  # ROS's own logging may not have been set up
            ros_environment.say_fatal(name, str(error))
        return EXIT_BAD_INPUT
    get_logger(name).fatal(''.join(traceback.format_exception(error)))
    return EXIT_FAULT


class _Spinner:
    """A thread that runs a node's callbacks; a callback that raises ends the process."""

    def __init__(self, node: Node) -> None:
        self.fault: BaseException | None = None
        self._is_over = False
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._thread = threading.Thread(target=self._spin, name='executor')
        self._thread.start()

    def _spin(self) -> None:
        # Not spin_until_future_complete: until rclpy 7.1.6 at least it leaves a callback on the
        # future each time round, 450 bytes a message.
        try:
            while not self._is_over:
                self._executor.spin_once()
        except ExternalShutdownException:
            pass
        except Exception as error:
            self.fault = error
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def _end(self) -> None:
        self._is_over = True

    def stop(self) -> None:
        """Let the callback under way finish, and join: a spinning thread at exit aborts."""
        self._executor.create_task(self._end)  # spin_once returns when something was done
        self._thread.join(timeout=_JOIN_TIMEOUT)
        self._executor.shutdown(timeout_sec=0)
