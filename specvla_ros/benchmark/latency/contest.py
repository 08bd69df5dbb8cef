"""
Decoders and peers side by side: each observation goes to all of them, in a random order.

Other load on the machine hits them alike, and the times of one observation are a pair. The
frames of an episode stay in their order for each of them, so drafters that remember the last
action work as they do on a robot.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from specvla_ros.benchmark.deviation import deviation
from specvla_ros.benchmark.observations import Footage
from specvla_ros.benchmark.policy_like import ActionLike, PolicyLike, WARM_UP_ACTIONS
from specvla_ros.benchmark.records import ActionRecord
from specvla_ros.benchmark.report import BASELINE


@dataclass(frozen=True, slots=True)
class Sample:
    """
    One action of one contestant.

    :param place: (repeat, episode, frame) it belongs to
    :param turn: how many contestants had that frame before
    :param drafts: (drafted, accepted) of each pass of the target, the prefill first
    :param taken: of a contestant with candidates the one that decoded; else empty
    """

    contestant: str
    place: tuple[int, int, int]
    turn: int
    record: ActionRecord
    drafts: tuple[tuple[int, int], ...]
    taken: str = ''


def contest(
    policies: dict[str, PolicyLike], episodes: Sequence[Footage], repeats: int, seed: int,
    on_action: Callable[[], None] = lambda: None, drawn: Collection[str] = (),
    execute_steps: int = 1, by_step: Collection[str] = (),
) -> list[Sample]:
    """
    Let all act on all observations, `repeats` times; samples come in the order of acting.

    :param policies: by name; the baseline must be one of them
    :param seed: of the order in which they get each observation
    :param drawn: names of those whose acceptance is drawn: their tokens aren't compared
    :param execute_steps: control steps between two frames
    :param by_step: names of those whose thresholds grow by step (`DecoderConfig.by_step`)
    """
    random, names = np.random.default_rng(seed), list(policies)
    samples: list[Sample] = []
    for repeat in range(repeats):
        for number, episode in enumerate(episodes):
            actions: dict[str, ActionLike] = {}
            for policy in policies.values():
                policy.reset()
            for frame, image in enumerate(episode.frames):
                order = [names[i] for i in random.permutation(len(names))]
                for name in order:
                    told = {'firm_steps': execute_steps} if name in by_step else {}
                    actions[name] = _act(policies[name], image, episode.instruction,
                                         actions.get(name), execute_steps, **told)
                    on_action()
                place = (repeat, number, frame)
                for turn, name in enumerate(order):
                    compared = name != BASELINE and name not in drawn
                    reference = actions[BASELINE] if compared else None
                    samples.append(_sample(
                        name, place, turn, actions[name], reference, execute_steps))
    return samples


def _act(policy: PolicyLike, image: NDArray[np.uint8], instruction: str,
         before: ActionLike | None, execute_steps: int, **told: int) -> ActionLike:
    """Act, and say how much of the action before was executed where it was not all of it."""
    if before is not None and len(before.si) != execute_steps:
        told['executed'] = execute_steps
    return policy.act(image, instruction, **told)


def warm_up(policy: PolicyLike, episode: Footage) -> None:
    """Let one act a few times, so that its first timed action is like the others."""
    for number in range(WARM_UP_ACTIONS):
        policy.act(episode.frames[number % len(episode.frames)], episode.instruction)
    policy.reset()


def _sample(
    name: str, place: tuple[int, int, int], turn: int, action: ActionLike,
    reference: ActionLike | None, execute_steps: int,
) -> Sample:
    difference = None if reference is None else deviation(action, reference)
    record = ActionRecord.of(action.tokens, action.trace, difference)
    if len(action.si) > 1:
        record = replace(record, steps=execute_steps)
    return Sample(
        name, place, turn, record, tuple(action.trace.drafts), action.trace.decoder)
