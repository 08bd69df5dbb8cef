"""
The training of a network, whichever: steps, measurements, files, and the way back after a stop.

The network's folder is whole from the first measurement on, each replaced in one go, so that it
can be tried while the training goes on. Beside it `….training/` keeps the state to resume from
and the learning curve. A recipe says what is special about the network.
"""

from dataclasses import dataclass, field, replace
import math
import time

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from specvla_ros.errors import one_line, SpecVLAError
from specvla_ros.files import whole_folder
from specvla_ros.training.optimizer import Optimizer
from specvla_ros.training.process_group import ALONE, ProcessGroup
from specvla_ros.training.recipe import Accuracy, Loss, Recipe
from specvla_ros.training.sampler import Sampler
from specvla_ros.training.saved_state import SavedState, StateFolder
from specvla_ros.training.schedule import Schedule, schedule_settings, share_done
from specvla_ros.training.stop_request import stop_request
from specvla_ros.training.training_progress import TrainingProgress


@dataclass(slots=True)
class _Interval:
    """The steps since the last measurement; samples: frames trained on before them."""

    samples: int
    began: float = field(default_factory=time.monotonic)
    losses: list[Loss] = field(default_factory=list)

    def seconds(self) -> float:
        """Return its length so far."""
        return time.monotonic() - self.began

    def speed(self, samples: int) -> float:
        """Frames a second, at so many frames trained on."""
        return (samples - self.samples) / max(self.seconds(), 1e-9)


class Trainer:
    """
    Train the network of a recipe.

    saved: what `folder.load` gave; None: from the start. group: of processes that train it
    together: each takes its part of every batch, the first one measures and writes. optimizer:
    how they hold the weights.

    :raises SpecVLAError: the training was begun with other settings, or its state doesn't fit
    """

    def __init__(
        self, recipe: Recipe, schedule: Schedule, folder: StateFolder, progress: TrainingProgress,
        saved: SavedState | None, group: ProcessGroup = ALONE,
        optimizer: type[Optimizer] = Optimizer,
    ) -> None:
        self.recipe, self.schedule, self.group = recipe, schedule, group
        self.folder, self.progress = folder, progress
        if saved:
            folder.check_same(self._settings(), saved)
        self.optimizer = optimizer(recipe.network, schedule.optimizer, schedule.lanes,
                                   getattr(torch, schedule.dtype), group,
                                   recipe.only_trained)
        self.batch = schedule.batch * group.size  # frames a step, over all processes
        self.sampler = Sampler(schedule.seed, self.batch)
        self.elapsed = 0.0  # seconds, over all resumed runs
        self.samples = 0  # frames trained on
        self._is_written = False  # the network, as it is now
        if saved:
            self._go_on(saved)

    def run(self) -> Accuracy | None:
        """
        Train to the end; return the last measurement, None if no frames are held out.

        Ctrl-C and SIGTERM end it after the step at hand, and nothing is lost.

        :raises KeyboardInterrupt: it was stopped; the state is saved
        """
        self.group.check_same(frames=len(self.recipe.frames))
        self.progress.say(self.recipe.title() + self._processes())
        started = time.monotonic() - self.elapsed
        interval, accuracy = _Interval(self.samples), None
        with stop_request() as stop:
            while True:
                # Clocks differ, and one process is told to stop before another.
                done, is_due, stopped = self.group.largest(
                    self.done(), interval.seconds() > 60 * self.schedule.evaluate, stop.made)
                if is_due and interval.losses:
                    accuracy = self._evaluate(interval)
                    interval = _Interval(self.samples)
                if done >= 1:
                    break
                if stopped:
                    self._stop()
                if self._has_grown() or self.sampler.at_end:
                    self.sampler.begin(len(self.recipe.frames))
                interval.losses += self.step(done)
                self.elapsed = time.monotonic() - started
                self.progress.update(
                    self.done(), self.elapsed, interval.speed(self.samples), interval.losses)
            if not self._is_written:
                accuracy = self._evaluate(interval)
            if stopped:
                raise KeyboardInterrupt
        return accuracy

    def _has_grown(self) -> bool:
        """Take in new frames, where one process alone reads them: all must have the same."""
        return self.group.size == 1 and self.recipe.refresh(self.sampler.at_end)

    def _processes(self) -> str:
        if self.group.size == 1:
            return ''
        return (f'; {self.group.size} processes, batch {self.schedule.batch} each, {self.batch} '
                'in all')

    def done(self) -> float:
        """Share of the training that is done, 0 … 1."""
        return share_done(
            self.schedule, self.elapsed, self.optimizer.steps, len(self.recipe.frames),
            self.group.size)

    def step(self, done: float) -> list[Loss]:
        """Take one optimiser step on the next batch; return the losses of the lanes."""
        lanes = self.schedule.lanes
        first = lanes * self.group.rank
        # A lane draws the same at random, whichever process it is in.
        parts = list(enumerate(np.array_split(self.sampler.next(), lanes * self.group.size)))

        def lane(part: tuple[int, NDArray[np.int64]]) -> tuple[Tensor, Loss]:
            number, chosen = part
            random = np.random.default_rng([self.schedule.seed, self.optimizer.steps, number])
            loss = self.recipe.loss(self.optimizer.replica, chosen, random, done)
            return loss.total, replace(loss, total=loss.total.detach())

        losses = self.optimizer.step(lane, parts[first:first + lanes], done)
        self.samples += self.batch
        self._is_written = False
        return losses

    def measure(self) -> Accuracy | None:
        """Hold the averaged weights against held-out frames; None if there are none."""
        chosen = self.recipe.measured_frames()
        if not len(chosen):
            return None

        @torch.no_grad()
        def lane(network: nn.Module, part: NDArray[np.int64]) -> Tensor:
            return self.recipe.distances(network, part).cpu()

        parts = np.array_split(chosen, math.ceil(len(chosen) / self.schedule.batch))
        return self.recipe.accuracy(torch.cat(self.optimizer.measure(lane, parts)))

    def save(self) -> None:
        """Save the state to go on from; one process does, for all."""
        if not self.optimizer.takes_part:
            return
        state = self.optimizer.state_dict()
        if self.group.leads:
            self.folder.save(SavedState(
                self._settings(), state, self.sampler.state_dict(), self.elapsed, self.samples,
                self.recipe.state()))

    def _evaluate(self, interval: _Interval) -> Accuracy | None:
        """Measure the averaged weights; add to the curve, write the network, save the state."""
        self._is_written = True
        accuracy = None
        if self.optimizer.takes_part:
            accuracy = self.measure()
            network = self.optimizer.whole()
            if self.group.leads:
                self._write(network, interval, accuracy)
            del network  # before the state is read, which is larger
            self.save()
        self.group.wait()
        return accuracy

    def _write(
        self, network: nn.Module, interval: _Interval, accuracy: Accuracy | None
    ) -> None:
        recipe = self.recipe
        point = {
            'step': self.optimizer.steps, 'minutes': self.elapsed / 60,
            'epoch': self.samples / max(1, len(recipe.frames)), 'samples': self.samples,
            'frames': len(recipe.frames), 'episodes': recipe.frames.n_episodes,
            'samples_per_s': interval.speed(self.samples),
            **recipe.curve(interval.losses), **(accuracy.point() if accuracy else {}),
        }
        self.progress.point(point)
        self.folder.add_point(point)
        with whole_folder(recipe.out, recipe.keep) as folder:
            recipe.write(network, folder, point)

    def _stop(self) -> None:
        self.save()
        self.progress.say(f'stopped after step {self.optimizer.steps}: the same command with '
                          f'--resume goes on from {self.folder.state}')
        raise KeyboardInterrupt

    def _settings(self) -> dict:
        return schedule_settings(self.schedule, self.group.size) | self.recipe.settings()

    def _go_on(self, saved: SavedState) -> None:
        try:
            self.optimizer.load_state_dict(saved.optimizer)
            self.sampler.load_state_dict(saved.sampler)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            reason = one_line(error, 200)
            raise SpecVLAError(
                f"{self.folder.state} doesn't fit this network ({reason}): delete "
                f'{self.folder.path} and begin again') from error
        self.elapsed, self.samples = saved.elapsed, saved.samples
