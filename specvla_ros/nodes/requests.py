"""A lifecycle node that survives requests for transitions it can't make."""

from typing import Any

from rclpy.lifecycle import LifecycleNode


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
                                    f'{" ".join(str(error).split())}')
            response.success = False
            return response

    service.callback = answer
