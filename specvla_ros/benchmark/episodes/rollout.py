"""
One episode: a policy plays a stored initial state of a task and everything is written down.

Only the policy's own time counts. `ar` may run beside another decoder, for the deviation on the
same observation; its time is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from specvla_ros.benchmark.deviation import deviation
from specvla_ros.benchmark.environment import Environment, image_of
from specvla_ros.benchmark.episodes.envelope import EpisodeEnvelope
from specvla_ros.benchmark.episodes.latency import Latency
from specvla_ros.benchmark.policy_like import EpisodePolicy, PolicyLike, WARM_UP_ACTIONS
from specvla_ros.benchmark.records import ActionRecord, EpisodeRecord
from specvla_ros.execution import Execution, StepsAhead
from specvla_ros.safety_settings import SafetySettings

if TYPE_CHECKING:  # heavy
    from specvla_ros.actions import Action
    from specvla_ros.libero.environment import Observation


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """
    How an episode is played.

    :param max_steps: control steps at most; None = the suite's own limit
    :param reference_every: run `ar` beside the decoder on every Nth action; 0 = never
    :param execution: how many steps of an action are executed, and how late
    :param safety: envelope that all actions are chosen in and fit; None = there is none
    :param latency: how late each action is; None = all as late as `execution` says
    :param by_step: decoders whose thresholds grow by step (`DecoderConfig.by_step`), which they
        do only where `latency` is None: else the time of the next action is not known before
    """

    max_steps: int | None = None
    reference_every: int = 10
    execution: Execution = Execution()
    safety: SafetySettings | None = None
    latency: Latency | None = None
    by_step: frozenset[str] = frozenset()


def warm_up(environment: Environment, policies: Sequence[PolicyLike], state: int) -> None:
    """Let each decoder act a few times, so that the first timed action is like the others."""
    observation = environment.reset(state)
    for policy in policies:
        for _ in range(WARM_UP_ACTIONS):
            policy.act(image_of(observation), environment.instruction)
        policy.reset()


def play(environment: Environment, policy: EpisodePolicy, decoder: str, state: int,
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
    ahead, turn, executed = StepsAhead(), None, None
    told: dict[str, int] = {}
    firm = config.execution.firm_steps() if config.latency is None else None
    if decoder in config.by_step and firm is not None:
        told['firm_steps'] = firm
    envelope = None if config.safety is None else EpisodeEnvelope(
        config.safety, policy.dataset.period_s)
    try:
        policy.reset()
        observation = environment.reset(state)
        while steps < limit and not success:
            action = _act(
                policy, observation, environment.instruction, envelope, executed, **told)
            difference = None
            if reference is not None and config.reference_every > 0 \
                    and len(actions) % config.reference_every == 0:
                difference = deviation(action, _act(
                    reference, observation, environment.instruction, envelope))
            actions.append(ActionRecord.of(action.tokens, action.trace, difference))
            chunk, done = len(action.si), 0
            turn = _Turn.of(_execution(config, policy, action), chunk, turn)
            for move in ahead.put(action.si[turn.step:], turn.late, turn.periods):
                delta = move.delta.astype(np.float32)
                if envelope is not None:
                    delta = envelope.fit(delta, observation.eef_position)
                observation = environment.step(delta)
                steps, done = steps + 1, done + (not move.stands)
                if (success := bool(observation.success)) or steps == limit:
                    break
            if chunk > 1 or turn.late or config.latency is not None:
                actions[-1] = replace(actions[-1], steps=done)
            executed = None if turn.periods >= chunk else turn.periods  # None: all of them
            on_action(steps)
    except Exception as error:  # noqa: BLE001 - any exception is recorded as a crash
        crash = f'{type(error).__name__}: {error}'.splitlines()[0]
    return EpisodeRecord(
        suite=environment.suite, task=environment.task_id, state=state, decoder=decoder,
        success=success and crash is None, steps=steps, crash=crash, actions=tuple(actions))


@dataclass(frozen=True, slots=True)
class _Turn:
    """
    When an action is executed.

    step: its first one that is; late: control periods from the image to that step; periods: from
    the image to the next one.
    """

    step: int
    late: int
    periods: int

    @classmethod
    def of(cls, execution: Execution, chunk: int, before: '_Turn | None') -> '_Turn':
        """
        Return the turn of an action of H = chunk steps.

        Where actions take different times, one may come in the period that the one before has come
        in. It waits for the next period: there is one step a period, and none is lost because
        the next action was faster.
        """
        taken = before is not None and before.late == before.periods
        wait = int(taken and not execution.latency)
        return cls(min(execution.steps(chunk).start + wait, chunk - 1), execution.latency + wait,
                   execution.periods(chunk) + wait)


def _execution(config: RolloutConfig, policy: EpisodePolicy, action: 'Action') -> Execution:
    """Return how an action is executed that took as long as it did."""
    if config.latency is None:
        return config.execution
    return Execution.late(config.execution.execute_steps, config.latency.seconds(action.trace),
                          policy.dataset.period_s)


def _act(policy: EpisodePolicy, observation: 'Observation', instruction: str,
         envelope: EpisodeEnvelope | None, executed: int | None = None, **told: int) -> 'Action':
    """Return what a policy says to an observation, of what the envelope leaves."""
    image = image_of(observation)
    if executed is not None:
        told['executed'] = executed
    if envelope is None:
        return policy.act(image, instruction, **told)
    x, y, z = observation.eef_position.tolist()
    return policy.act(image, instruction, None, (x, y, z),
                      envelope.limits(observation.eef_position), **told)
