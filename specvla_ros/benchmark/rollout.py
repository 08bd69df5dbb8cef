"""
One episode: a policy plays a stored initial state of a task and everything is written down.

Only the policy's own time counts. Where `ar` is run beside another decoder, for the deviation on
the same observation, that time is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from specvla_ros.benchmark.records import ActionRecord, Deviation, EpisodeRecord

# Distance of two neighbouring bin centres of a normalised action: [-1, 1] cut by 256 edges.
BIN_WIDTH = 2 / 255
WARM_UP_ACTIONS = 2


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


class Actor(Protocol):
    """What is asked of `policy.Policy`."""

    def act(self, image: np.ndarray, instruction: str, stamp: float | None = None) -> Any:
        """Return the `policy.Action` for uint8 [H, W, 3] RGB, top row first; stamp: s."""

    def reset(self) -> None:
        """Forget the previous episode."""


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """
    How an episode is played.

    :param max_steps: control steps at most; None = the suite's own limit
    :param reference_every: run `ar` beside the decoder on every Nth action; 0 = never
    """

    max_steps: int | None = None
    reference_every: int = 10


def deviation(action: Any, reference: Any) -> Deviation:
    """
    Return how far an action is from the reference's, both `policy.Action`s of one observation.

    Bins are told apart by their centres, so that the two ids that decode to the same value are
    no distance apart.
    """
    centres = np.abs(np.asarray(action.normalized) - np.asarray(reference.normalized))
    si = np.abs(np.asarray(action.si, float) - np.asarray(reference.si, float))
    return Deviation(
        max_bins=int(np.rint(centres / BIN_WIDTH).max()),
        mm=float(1000 * si[..., :3].mean()),
        deg=float(np.degrees(si[..., 3:6]).mean()),
    )


def warm_up(environment: Environment, actors: list[Actor], state: int) -> None:
    """Let each decoder act a few times, so that the first timed action is like the others."""
    observation = environment.reset(state)
    for actor in actors:
        for _ in range(WARM_UP_ACTIONS):
            actor.act(observation.image, environment.instruction)
        actor.reset()


def play(environment: Environment, actor: Actor, decoder: str, state: int,
         config: RolloutConfig, reference: Actor | None = None,
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
    try:
        actor.reset()
        observation = environment.reset(state)
        while steps < limit and not success:
            action = actor.act(observation.image, environment.instruction)
            compare = reference is not None and config.reference_every > 0 \
                and len(actions) % config.reference_every == 0
            difference = deviation(action, reference.act(
                observation.image, environment.instruction)) if compare else None
            actions.append(ActionRecord.of(action.tokens, action.trace, difference))
            for delta in action.si[:limit - steps]:
                observation = environment.step(delta)
                steps += 1
                if success := bool(observation.success):
                    break
            on_action(steps)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is recorded as a crash
        crash = f'{type(error).__name__}: {error}'.splitlines()[0]
    return EpisodeRecord(
        suite=environment.suite, task=environment.task_id, state=state, decoder=decoder,
        success=success and crash is None, steps=steps, crash=crash, actions=tuple(actions))
