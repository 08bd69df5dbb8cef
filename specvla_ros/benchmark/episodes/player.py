"""Plays episodes inside a worker process: one policy, one LIBERO environment at a time."""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
from dataclasses import dataclass
import functools

from specvla_ros.benchmark.environment import Environment
from specvla_ros.benchmark.episodes.rollout import play, RolloutConfig, warm_up
from specvla_ros.benchmark.episodes.workers import Match, Player, Playing
from specvla_ros.benchmark.policy_like import EpisodePolicy
from specvla_ros.benchmark.records import EpisodeRecord
from specvla_ros.benchmark.report import BASELINE
from specvla_ros.configuration import DecoderConfig
from specvla_ros.libero.drift import Drift
from specvla_ros.policy_source import PolicySource


@dataclass(frozen=True, slots=True)
class LiberoPlayer:
    """
    Makes the player in a worker process; picklable.

    unnorm_keys: whose statistics turn tokens into motion, by suite. drift: of an object of the
    scene, None = it stands still.
    """

    source: PolicySource
    decoders: dict[str, DecoderConfig]
    unnorm_keys: dict[str, str]
    threads: int
    rollout: RolloutConfig
    drift: Drift | None = None

    def __call__(self) -> Player:
        """Load the weights once and share them among the decoders."""
        import torch

        from specvla_ros.libero.environment import LiberoEnv
        from specvla_ros.policy import Policy

        torch.set_num_threads(self.threads)
        keys = iter(self.unnorm_keys.values())
        policy = Policy.of(dataclasses.replace(self.source, unnorm_key=next(keys)))

        def cast(suite: str) -> Cast:
            own = policy.with_dataset(self.unnorm_keys[suite])
            policies = {name: own.with_decoder(config) for name, config in self.decoders.items()}
            return Cast(policies, own.with_decoder(BASELINE))

        make = functools.partial(LiberoEnv, drift=self.drift)
        return TaskPlayer(make, cast, self.rollout, first=next(iter(self.unnorm_keys)))


@dataclass(frozen=True, slots=True)
class Cast:
    """The policies that play a suite: one a decoder, and `ar` as the reference."""

    policies: Mapping[str, EpisodePolicy]
    reference: EpisodePolicy


class TaskPlayer:
    """Plays matches, keeping the environment as long as the task stays the same."""

    def __init__(self, make_environment: Callable[[str, int], Environment],
                 make_cast: Callable[[str], Cast], config: RolloutConfig, first: str) -> None:
        """
        Take the parts; no environment is made before the first match.

        :param make_cast: makes the policies that play a suite
        :param first: suite whose policies are made now, so that errors show at once
        """
        self._make_environment, self._config = make_environment, config
        self._make_cast = make_cast
        self._suite, self._cast = first, make_cast(first)
        self._environment: Environment | None = None

    def play(self, match: Match, on_progress: Callable[[Playing], None]
             ) -> Iterator[EpisodeRecord]:
        """Play a match's episodes one after the other."""
        for decoder in match.decoders:
            playing = Playing(match.suite, match.task, match.state, decoder)
            on_progress(playing)
            environment = self._environment_of(match)

            def tell(steps: int, playing: Playing = playing) -> None:
                on_progress(dataclasses.replace(playing, steps=steps))

            episode = play(
                environment, self._cast.policies[decoder], decoder, match.state, self._config,
                reference=None if decoder == BASELINE else self._cast.reference, on_action=tell)
            if episode.crash is not None:
                self._close()  # whatever state the simulator is in, the next starts clean
            yield episode

    def _environment_of(self, match: Match) -> Environment:
        current = self._environment
        if current is None or (current.suite, current.task_id) != (match.suite, match.task):
            self._close()
            if match.suite != self._suite:
                self._suite, self._cast = match.suite, self._make_cast(match.suite)
            current = self._environment = self._make_environment(match.suite, match.task)
            warm_up(current, [*self._cast.policies.values(), self._cast.reference], match.state)
        return current

    def _close(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None
