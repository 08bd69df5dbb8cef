"""
One episode: a policy plays a stored initial state of a task and everything is written down.

Only the policy's own time counts. Where `ar` is run beside another decoder, for the deviation on
the same observation, that time is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from specvla_ros.benchmark.deviation import deviation
from specvla_ros.benchmark.episodes.fence import Fence
from specvla_ros.benchmark.policy_like import EpisodePolicy, WARM_UP_ACTIONS
from specvla_ros.benchmark.records import ActionRecord, EpisodeRecord
from specvla_ros.safety import SafetySettings


class Environment(Protocol):
    """What is asked of `libero.environment.LiberoEnv`."""

    suite: str
    task_id: int
    instruction: str
    max_steps: int

    def reset(self, state_index: int) -> Any:
        """Return the first observation of a stored initial state."""

    def step(self, action: np.ndarray) -> Any:
        """Apply [7] SI values (m, rotation vector in rad, gripper 1 = open)."""

    def close(self) -> None:
        """Free the simulator."""


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """
    How an episode is played.

    :param max_steps: control steps at most; None = the suite's own limit
    :param reference_every: run `ar` beside the decoder on every Nth action; 0 = never
    :param safety: envelope that all actions are chosen in and fit; None = there is none
    """

    max_steps: int | None = None
    reference_every: int = 10
    safety: SafetySettings | None = None


def warm_up(environment: Environment, actors: list[EpisodePolicy], state: int) -> None:
    """Let each decoder act a few times, so that the first timed action is like the others."""
    observation = environment.reset(state)
    for actor in actors:
        for _ in range(WARM_UP_ACTIONS):
            actor.act(observation.image, environment.instruction)
        actor.reset()


def play(environment: Environment, actor: EpisodePolicy, decoder: str, state: int,
         config: RolloutConfig, reference: EpisodePolicy | None = None,
         on_action: Callable[[int], None] = lambda steps: None) -> EpisodeRecord:
    """
    Play one episode.

    An exception of the policy or the simulator ends the episode as a crash; it is never taken
    for a failure of the policy to solve the task.

    :param reference: plays `ar` on every `config.reference_every`-th observation
    :param on_action: called with the number of control steps after each action
    """
    actions: list[ActionRecord] = []
    steps, success, crash = 0, False, None
    limit = config.max_steps or environment.max_steps
    fence = None if config.safety is None else Fence(config.safety, actor.dataset.period_s)
    try:
        actor.reset()
        observation = environment.reset(state)
        while steps < limit and not success:
            action = _act(actor, observation, environment.instruction, fence)
            compare = reference is not None and config.reference_every > 0 \
                and len(actions) % config.reference_every == 0
            difference = deviation(action, _act(
                reference, observation, environment.instruction, fence)) if compare else None
            actions.append(ActionRecord.of(action.tokens, action.trace, difference))
            deltas = action.si if fence is None else fence.fit(
                action.si, observation.eef_position)
            for delta in deltas[:limit - steps]:
                observation = environment.step(delta)
                steps += 1
                if fence is not None:
                    fence.carried_out(delta)
                if success := bool(observation.success):
                    break
            on_action(steps)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is recorded as a crash
        crash = f'{type(error).__name__}: {error}'.splitlines()[0]
    return EpisodeRecord(
        suite=environment.suite, task=environment.task_id, state=state, decoder=decoder,
        success=success and crash is None, steps=steps, crash=crash, actions=tuple(actions))


def _act(actor: EpisodePolicy, observation: Any, instruction: str, fence: Fence | None) -> Any:
    """Return what an actor says to an observation, of what the envelope leaves."""
    if fence is None:
        return actor.act(observation.image, instruction)
    position = observation.eef_position
    return actor.act(observation.image, instruction, None, tuple(position.tolist()),
                     fence.limits(position))
