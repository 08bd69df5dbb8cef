"""
The policy as a lifecycle node: newest camera image + instruction in, one end-effector delta out.

configure: load, warm up, self-check. activate: act (see `actor`). deactivate: no action is
published once it returns. cleanup: the memory is given back. A transition that fails says why and
can be tried again: set a parameter right and configure once more.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
import sys
import time
import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
import rclpy.parameter

from specvla_ros.errors import one_line
from specvla_ros.nodes import memory
from specvla_ros.nodes.diagnostics import Diagnostics, Statistics
from specvla_ros.nodes.graph_watch import GraphWatch
from specvla_ros.nodes.main_thread import MainThread
from specvla_ros.nodes.parameters import declare
from specvla_ros.nodes.policy_node.actor import Actor
from specvla_ros.nodes.policy_node.emergency_stop import EmergencyStop
from specvla_ros.nodes.policy_node.gripper_goals import full_action_name, gripper_command
from specvla_ros.nodes.policy_node.instruction_goals import InstructionGoals, Reason
from specvla_ros.nodes.policy_node.instruction_subscription import InstructionSubscription
from specvla_ros.nodes.policy_node.learning_parameters import LearningSettings
from specvla_ros.nodes.policy_node.node_learning import NodeLearning
from specvla_ros.nodes.policy_node.own_services import (
    set_parameters_aside,
    survive_bad_transitions,
)
from specvla_ros.nodes.policy_node.settings import (
    ActingPolicy,
    AUTOSTART,
    fixed_while_configured,
    in_words,
    load_policy,
    PARAMETERS,
    pick,
    PolicySettings,
    TopicSettings,
)
from specvla_ros.nodes.runtime import run
from specvla_ros.nodes.topics import Topics
from specvla_ros.safety_settings import SafetySettings

NAME = 'policy_node'
_BAD_INPUT = (ValueError, FileNotFoundError)


class PolicyNode(LifecycleNode):
    """
    Subscribes `image` and `instruction`, publishes `action` and `decode_report`, while active.

    :param load: makes the policy from the settings; tests put a fake there
    :raises ValueError, FileNotFoundError: it starts by itself and can't
    """

    def __init__(self, load: Callable[[PolicySettings], ActingPolicy] = load_policy) -> None:
        super().__init__(NAME)
        declare(self, PARAMETERS)
        self._load = load
        self._main = MainThread()
        self._policy: ActingPolicy | None = None
        self._candidate: tuple[PolicySettings, ActingPolicy] | None = None
        self._actor: Actor | None = None
        self._fault: Exception | None = None
        self._envelope: SafetySettings | None = None
        self._learning = NodeLearning(self.get_logger())
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._apply_parameters)
        survive_bad_transitions(self)
        # Acting and stopping don't wait for what a change of parameters loads: all of that is in
        # a group of its own; rclpy's services are in the default one.
        set_parameters_aside(self)
        self._acting = MutuallyExclusiveCallbackGroup()
        self._watch = GraphWatch(self, self._acting, self._let_act)
        topics = Topics(self, self._acting, self._watch)
        self._stop = EmergencyStop(
            self, topics, self._acting, self._on_emergency_stop, self._let_act)
        # Before the image: callbacks that are ready together run in this order, so an image sent
        # after an instruction is never acted on under the one before.
        self._instruction = InstructionSubscription(
            self, topics, lambda: self._goals.end(Reason.PREEMPTED))
        self._goals = InstructionGoals(self, self._acting, self._refusal, self._instruction)
        self._statistics = Statistics()
        if self._value(AUTOSTART.name):
            self._start()
        Diagnostics(self, self._acting, self._statistics, self._describe,
                    self._learning.facts)

    def work(self) -> None:
        """Load and infer, whenever that is asked for; at the end stop, and tell who waits."""
        try:
            self._main.run()
        finally:
            if (actor := self._actor) is not None:
                actor.pause()
                actor.wait_for_gripper()  # who repeats a cancel ends with the process
            self._goals.shut_down()

    def close(self) -> None:
        """Stop acting."""
        if self._actor is not None:
            self._actor.close()
        self._learning.end()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the policy."""
        return self._go('configure', self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to act."""
        return self._go('activate', self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop acting; the inference under way ends by itself, and its action is dropped."""
        return self._go('deactivate', self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give the memory back."""
        return self._go('clean up', self._clean_up)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop acting and give the memory back, from whatever state."""
        return self._go('shut down', self._clean_up)

    def _go(self, name: str, transition: Callable[[], None]) -> TransitionCallbackReturn:
        """Do a transition; rclpy would swallow what it raises."""
        try:
            transition()
        except _BAD_INPUT as error:
            self.get_logger().error(f'could not {name}: {one_line(error)}')
            self._fault = error.with_traceback(None)  # whose frames hold what was loaded
        except Exception as error:
            self.get_logger().error(f'could not {name}: {traceback.format_exc()}')
            self._fault = error.with_traceback(None)
        else:
            return TransitionCallbackReturn.SUCCESS
        return TransitionCallbackReturn.FAILURE

    def _start(self) -> None:
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                raise self._fault

    def _configure(self) -> None:
        settings = self._settings(PolicySettings)
        envelope = SafetySettings.read(self._value('safety'))  # a mistake should not cost a load
        if self._value('send_gripper_goals'):
            gripper_command()
            full_action_name(self, self._value('gripper_action'))
        bounds = self._settings(LearningSettings).online
        started = time.monotonic()
        policy = self._main.call(lambda: self._load(settings))
        self._main.call(lambda: self._learning.begin(policy, bounds))
        self._policy, self._candidate = policy, (settings, policy)
        self.get_logger().info(
            f'loaded {settings.checkpoint or "the embedded checkpoint"} in '
            f'{time.monotonic() - started:.1f} s, decoder {self._policy.decoder_config.name}, '
            f'actions of {self._policy.dataset.unnorm_key}')
        self.get_logger().info(f'safety envelope {self._value("safety")}: {in_words(envelope)}')

    def _activate(self) -> None:
        settings = self._settings(TopicSettings)
        safety, topics = SafetySettings.read(settings.safety), Topics(
            self, self._acting, self._watch)
        try:
            actor = Actor(
                self, topics, self._main, self._policy, settings, safety, self._statistics,
                self._goals, self._learning.current)
        except Exception:
            topics.destroy()  # half of them would be in the way of the next attempt
            raise
        if self._stop.is_on:
            self.get_logger().error('active, but the emergency stop is on: no action until '
                                    'the service ~/reset_emergency_stop is called')
        self._actor = actor
        self._watch.look()  # a second master may be there already
        self._let_act()
        self._instruction.set_follower(actor)

    def _deactivate(self) -> None:
        if self._actor is not None:
            self._actor.close()
            self._actor = None
            self._instruction.set_follower(None)
            self._goals.stop(Reason.DEACTIVATED)

    def _clean_up(self) -> None:
        self._deactivate()
        self._policy = self._candidate = None
        self._main.call(self._learning.end)
        self._main.call(memory.give_back)  # after the inference under way, which holds the weights

    def _on_emergency_stop(self) -> None:
        if self._actor is not None:
            self._actor.pause()
            self._goals.stop(Reason.EMERGENCY_STOP)

    def _let_act(self) -> None:
        """Go on acting, or stand still, as the emergency stop and other publishers allow."""
        if self._actor is None:
            return
        if self._stop.is_on or self._watch.objection:
            self._actor.pause()
        else:
            self._actor.resume()

    def _refusal(self) -> str:
        """Why no instruction can be followed at present; '' where one can."""
        is_held = self._stop.is_on or self._watch.objection or self._actor is None
        return self._describe()[1] if is_held else ''

    def _describe(self) -> tuple[bytes, str]:
        if self._stop.is_on:
            return DiagnosticStatus.ERROR, 'emergency stop'
        if self._watch.objection:
            return DiagnosticStatus.ERROR, self._watch.objection
        if self._actor is None:
            return DiagnosticStatus.WARN, 'not active'
        if self._actor.fault:
            return DiagnosticStatus.WARN, self._actor.fault
        return DiagnosticStatus.OK, 'active'

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _settings(self, kind: type) -> Any:
        return pick(kind, {parameter.name: self._value(parameter.name)
                           for parameter in PARAMETERS})

    def _check_parameters(self, changes: list[rclpy.parameter.Parameter]) -> SetParametersResult:
        """Make the decoder and read the envelope asked for; say why if that can't be done."""
        changed = {change.name: change.value for change in changes}
        fixed = fixed_while_configured(changed) if self._policy is not None else []
        if fixed:
            return SetParametersResult(successful=False, reason=(
                f'{", ".join(fixed)}: read-only while the node is configured; clean it up first'))
        try:
            for parameter in PARAMETERS:
                if parameter.name in changed:
                    parameter.check(changed[parameter.name])
            if 'safety' in changed:
                self._envelope = SafetySettings.read(changed['safety'])
            self._prepare(changed)
        except _BAD_INPUT as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply_parameters(self, changes: list[rclpy.parameter.Parameter]) -> None:
        """
        Let actions be what the parameters say.

        Those that begin from now on use this decoder; those published from now on fit this
        envelope.
        """
        if self._actor is not None and 'safety' in (change.name for change in changes):
            self._actor.set_safety(self._envelope)
            self.get_logger().info(
                f'safety envelope {self._value("safety")}: {in_words(self._envelope)}')
        policy = self._prepare({})
        if policy is self._policy:
            return
        self._policy = policy
        if self._actor is not None:
            self._actor.set_policy(policy)
        self.get_logger().info(f'decoder: {policy.decoder_config.name}')

    def _prepare(self, changed: dict[str, Any]) -> ActingPolicy | None:
        """Return the policy for the parameters as they are, but for what is `changed`."""
        decoder = {name: changed.get(name, self._value(name))
                   for name in ('decoder', 'threshold', 'strict_above_risk')}
        if self._candidate is None:
            replace(self._settings(PolicySettings), **decoder).decoder_config  # noqa: B018
            return None
        prepared, policy = self._candidate
        wanted = replace(prepared, **decoder)
        if wanted != prepared:
            policy = policy.with_decoder(wanted.decoder_config)
            self._candidate = wanted, policy
        return policy


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until it is told to stop; see `runtime.run` for the exit codes."""
    return run(NAME, PolicyNode, args)


if __name__ == '__main__':
    sys.exit(main())
