"""Plays episodes inside a worker: one policy, one LIBERO environment at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from dataclasses import dataclass
import functools

from specvla_ros.benchmark.environment import Environment
from specvla_ros.benchmark.episodes.rollout import play, RolloutConfig, warm_up
from specvla_ros.benchmark.episodes.trial import Playing, Trial
from specvla_ros.benchmark.policy_like import EpisodePolicy
from specvla_ros.benchmark.records import EpisodeRecord
from specvla_ros.benchmark.report import BASELINE
from specvla_ros.configuration import DecoderConfig
from specvla_ros.libero.drift import Drift
from specvla_ros.policy_source import PolicySource


@dataclass(frozen=True, slots=True)
class LiberoPlayer:
    """
    Makes the player in a worker; picklable.

    unnorm_keys: whose statistics turn tokens into motion, by suite. drift: of an object of the
    scene, None = it stands still.
    """

    source: PolicySource
    decoders: dict[str, DecoderConfig]
    unnorm_keys: dict[str, str]
    threads: int
    rollout: RolloutConfig
    drift: Drift | None = None

    def __call__(self) -> TaskPlayer:
        """Load the weights once and share them among the decoders."""
        import torch

        from specvla_ros.libero.environment import LiberoEnv
        from specvla_ros.policy import Policy

        torch.set_num_threads(self.threads)
        keys = iter(self.unnorm_keys.values())
        policy = Policy.of(dataclasses.replace(self.source, unnorm_key=next(keys)))

        def policies_of(suite: str) -> SuitePolicies:
            own = policy.with_dataset(self.unnorm_keys[suite])
            policies = {name: own.with_decoder(config) for name, config in self.decoders.items()}
            return SuitePolicies(policies, own.with_decoder(BASELINE))

        make = functools.partial(LiberoEnv, drift=self.drift)
        return TaskPlayer(make, policies_of, self.rollout, first=next(iter(self.unnorm_keys)))


@dataclass(frozen=True, slots=True)
class SuitePolicies:
    """The policies that play a suite: one a decoder, and `ar` as the reference."""

    by_decoder: Mapping[str, EpisodePolicy]
    reference: EpisodePolicy


class TaskPlayer:
    """Plays trials, keeping the environment as long as the task stays the same."""

    def __init__(self, make_environment: Callable[[str, int], Environment],
                 make_policies: Callable[[str], SuitePolicies], config: RolloutConfig,
                 first: str) -> None:
        """
        Take the parts; no environment is made before the first trial.

        :param make_policies: makes the policies that play a suite
        :param first: suite whose policies are made now, so that errors show at once
        """
        self._make_environment, self._config = make_environment, config
        self._make_policies = make_policies
        self._suite, self._policies = first, make_policies(first)
        self._environment: Environment | None = None

    def do(self, job: Trial, tell: Callable[[Playing], None]) -> EpisodeRecord:
        """Play an episode; see `Worker`."""
        playing = Playing(job.suite, job.task, job.state, job.decoder)
        tell(playing)
        environment, policies = self._environment_of(job), self._policies
        episode = play(
            environment, policies.by_decoder[job.decoder], job.decoder, job.state, self._config,
            reference=None if job.decoder == BASELINE else policies.reference,
            on_action=lambda steps: tell(dataclasses.replace(playing, steps=steps)))
        if episode.crash is not None:
            self._close()  # whatever state the simulator is in, the next starts clean
        return episode

    def _environment_of(self, trial: Trial) -> Environment:
        current = self._environment
        if current is None or (current.suite, current.task_id) != (trial.suite, trial.task):
            self._close()
            if trial.suite != self._suite:
                self._suite, self._policies = trial.suite, self._make_policies(trial.suite)
            current = self._environment = self._make_environment(trial.suite, trial.task)
            policies = self._policies
            warm_up(current, [*policies.by_decoder.values(), policies.reference], trial.state)
        return current

    def _close(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None
