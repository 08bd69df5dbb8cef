"""Players for workers: no simulator, no model, and every way to go wrong."""

from dataclasses import dataclass, replace
import os
from pathlib import Path
import time

from specvla_ros.benchmark.episodes.trial import Playing
from specvla_ros.benchmark.records import ActionRecord, EpisodeRecord


def action(tokens=(1, 2, 3, 4, 5, 6, 7)) -> ActionRecord:
    return ActionRecord(tokens, 7, 0, 0, (1,) * 6, ('target',) * 7,
                        {'vision': 1.0, 'prefill': 4.0, 'verify': 5.0, 'total': 10.0})


@dataclass(frozen=True)
class FakePlayer:
    """
    Solves everything in two steps; `dies` and `raises` name (task, state, decoder).

    once: folder where it is noted who died, so that it dies there only once. pids: folder where
    each episode leaves a file named by its process and by what it plays. exits: at the start.
    """

    dies: tuple = ()
    raises: tuple = ()
    no_start: str = ''
    seconds: float = 0.0
    once: Path | None = None
    pids: Path | None = None
    exits: bool = False

    def __call__(self):
        if self.exits:
            os._exit(3)
        if self.no_start:
            raise ValueError(self.no_start)
        return self

    def do(self, job, tell):
        playing = Playing(job.suite, job.task, job.state, job.decoder)
        tell(playing)
        place = job.task, job.state, job.decoder
        if self.pids is not None:
            (self.pids / '-'.join(map(str, (os.getpid(), *place)))).touch()
        if place in self.dies and self._dies_now(place):
            os._exit(7)
        if place in self.raises:
            raise RuntimeError('the simulator cannot be made')
        time.sleep(self.seconds)
        tell(replace(playing, steps=2))
        said = action((job.task, job.state, 3, 4, 5, 6, 7))
        return EpisodeRecord(job.suite, job.task, job.state, job.decoder, True, 2, None,
                             (said, said))

    def _dies_now(self, place):
        if self.once is None:
            return True
        note = self.once / str(place)
        known = note.exists()
        note.touch()
        return not known
