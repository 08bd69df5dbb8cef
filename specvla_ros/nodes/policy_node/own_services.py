"""What rclpy's own services of a node do with requests that go wrong or take long."""

from collections.abc import Callable
import threading
from typing import Any

from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.task import Future

from specvla_ros.errors import one_line


def survive_bad_transitions(node: LifecycleNode) -> None:
    """
    Answer a transition that the state doesn't allow with "no", and log it.

    rclpy raises out of the service's callback, which ends the executor and with it the process:
    one wrong `ros2 lifecycle set` would take an arm's policy away.
    """
    service = node._service_change_state
    change_state = service.callback

    def answer(request: Any, response: Any) -> Any:
        try:
            return change_state(request, response)
        except RuntimeError as error:  # rclpy's RCLError
            transition = request.transition.label or request.transition.id
            node.get_logger().error(f'no transition {transition} from the present state: '
                                    f'{one_line(error)}')
            response.success = False
            return response

    service.callback = answer


def set_parameters_aside(node: Node) -> None:
    """
    Make changes of parameters in a thread of their own.

    What a change loads (a drafter, say) may take seconds. The node's default callback group, with
    transitions and other changes in it, waits for it; callbacks in other groups go on.
    """
    for service in node.services:
        if service.srv_type in (SetParameters, SetParametersAtomically):
            service.callback = _aside(node, service.callback)


def _aside(node: Node, answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    async def answer_aside(request: Any, response: Any) -> Any:
        executor, future = node.executor, Future()

        def work() -> None:
            try:
                future.set_result(answer(request, response))
            except Exception as error:
                future.set_exception(error)
            executor.wake()

        threading.Thread(target=work, name='parameters').start()
        return await future

    return answer_aside
