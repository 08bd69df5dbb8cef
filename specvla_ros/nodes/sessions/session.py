"""What all sessions do alike: a ROS domain of their own, calls to their nodes, one exit code."""

from __future__ import annotations

from collections.abc import Callable
import os
import time
from typing import Any, Protocol

from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.parameter import Parameter

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.events import Emit, error_event
from specvla_ros.nodes.runtime import EXIT_OK, run, WorkingNode
from specvla_ros.nodes.sessions.processes import free_domain

EXIT_INTERRUPTED = 130


class Session(WorkingNode, Protocol):
    """A node that plays a session; `finished` once it has played all of it."""

    finished: bool


def play_session(name: str, make: Callable[[], Session], emit: Emit,
                 domain_id: int | None = None) -> int:
    """
    Play a session; return the exit code. Initialises and shuts down rclpy.

    :param emit: called with an error, or with the interruption, as the last event
    :param domain_id: ROS domain; None: a free one
    """
    os.environ['ROS_DOMAIN_ID'] = str(free_domain() if domain_id is None else domain_id)
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    sessions: list[Session] = []

    def make_one() -> Session:
        sessions.append(make())
        return sessions[0]

    code = run(name, make_one, [], on_fault=lambda error: emit(error_event(error)))
    if code == EXIT_OK and not (sessions and sessions[0].finished):
        emit({'event': 'error', 'message': 'interrupted'})
        return EXIT_INTERRUPTED
    return code


def call(client: Client, request: Any, check: Callable[[], None]) -> Any:
    """Call a service and return its answer; `check` raises if the node behind it has ended."""
    future = client.call_async(request)
    while not future.done():
        check()
        time.sleep(0.005)
    return future.result()


def set_decoder(client: Client, decoder: str, check: Callable[[], None]) -> None:
    """
    Set a policy node's decoder.

    :raises SpecVLAError: it refuses
    """
    request = SetParameters.Request(
        parameters=[Parameter('decoder', value=decoder).to_parameter_msg()])
    result = call(client, request, check).results[0]
    if not result.successful:
        raise SpecVLAError(f'decoder {decoder}: {result.reason}')
