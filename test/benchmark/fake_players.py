"""Players for worker processes: no simulator, no model, and every way to go wrong."""

from dataclasses import dataclass, replace
import os
import time

from specvla_ros.benchmark.episodes.workers import Playing
from specvla_ros.benchmark.records import ActionRecord, EpisodeRecord


def action(tokens=(1, 2, 3, 4, 5, 6, 7)) -> ActionRecord:
    return ActionRecord(tokens, 7, 0, 0, (1,) * 6, ('target',) * 7,
                        {'vision': 1.0, 'prefill': 4.0, 'verify': 5.0, 'total': 10.0})


@dataclass(frozen=True)
class FakePlayer:
    """Solves everything in two steps; `dies` and `raises` name (task, state, decoder)."""

    dies: tuple = ()
    raises: tuple = ()
    no_start: str = ''
    seconds: float = 0.0

    def __call__(self):
        if self.no_start:
            raise ValueError(self.no_start)
        return self

    def play(self, trial, on_progress):
        for decoder in trial.decoders:
            playing = Playing(trial.suite, trial.task, trial.state, decoder)
            on_progress(playing)
            place = trial.task, trial.state, decoder
            if place in self.dies:
                os._exit(7)
            if place in self.raises:
                raise RuntimeError('the simulator cannot be made')
            time.sleep(self.seconds)
            on_progress(replace(playing, steps=2))
            yield EpisodeRecord(trial.suite, trial.task, trial.state, decoder, True, 2, None,
                                (action(), action()))
