"""The drafters that recordings can teach: what they are taught with, and measured by."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from specvla_ros.decoding.drafters import EagleHead, GlanceConfig, GlanceHead
from specvla_ros.drafter_folders import weights_folder
from specvla_ros.openvla.json_file import read_object
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training.recipe import Recipe
from specvla_ros.training.saved_state import StateFolder
from specvla_ros.training.schedule import Schedule
from specvla_ros.training.train_eagle import EagleRecipe, TrainEagleArgs
from specvla_ros.training.train_glance import glance_presets, GlanceRecipe, TrainGlanceArgs
from specvla_ros.training.trainer import Trainer
from specvla_ros.training.training_progress import TrainingProgress

_SIZES = ('rank', 'width', 'shapes')
_AT_THE_END = 1e6  # minutes between measurements: there is nothing to measure with on the way


@dataclass(frozen=True, slots=True)
class Lesson:
    """
    A drafter to teach.

    name: of the drafter and its folder. presets: a lossless decoder that drafts with it, and a
    relaxed one. without: presets to compare with where there are no weights yet.
    """

    name: str
    presets: tuple[str, str]
    without: tuple[str, str]


def lessons(chunk: int, eagle: bool) -> tuple[Lesson, ...]:
    """Return what is taught to a checkpoint whose actions are of so many control steps."""
    glance = Lesson('glance', glance_presets(chunk),
                    ('history' if chunk == 1 else 'jacobi', 'history_relaxed'))
    others = (Lesson('eagle', ('strict', 'relaxed'), ('history', 'history_relaxed')),)
    return (glance, *others) if eagle else (glance,)


@dataclass(frozen=True, slots=True)
class Teaching:
    """
    How drafters are taught.

    words: folder of what the target says, of so many `frames`. present: folder of the drafters
    there are. out: folder of drafters that gets the new ones. minutes, epochs: a training ends
    with whichever comes first.
    """

    target: Path
    unnorm_key: str
    words: Path
    frames: int
    present: Path
    out: Path
    minutes: float
    epochs: float
    lanes: int
    device: str
    seed: int

    def train(self, lesson: Lesson, progress: TrainingProgress) -> OpenVLA:
        """
        Teach a drafter into `out`, beginning with the present weights if they fit.

        :returns: the target, to measure with
        :raises SpecVLAError: what is wrong with the words or the target
        """
        recipe = (_glance if lesson.name == 'glance' else _eagle)(self)
        state = StateFolder(self.out.with_name(f'{lesson.name}.training'), '--out')
        _Limited(recipe, recipe.args, state, progress, self.minutes).run()
        return recipe.model

    def arguments(self, batch: int) -> dict[str, Any]:
        """Return what all trainings are told; batch: what they take of many frames."""
        batch = min(batch, self.frames)
        lanes = min(self.lanes, batch)
        batch -= batch % lanes
        return dict(
            target=self.target, suite=self.unnorm_key, unnorm_key=self.unnorm_key,
            regenerated=self.words, epochs=self.epochs, batch=batch, lanes=lanes,
            device=self.device, seed=self.seed, holdout=0.0, evaluate=_AT_THE_END,
            decode_frames=0)


def begins_with(name: str, present: Path, model: OpenVLA) -> tuple[nn.Module | None, str]:
    """Return the network to begin with, trainable; None: there is none that fits, and why."""
    folder = weights_folder(present, name)
    if folder is None:
        return None, 'there were none'
    try:
        kind = GlanceHead if name == 'glance' else EagleHead
        head = kind.from_pretrained(folder, model)
    except (ValueError, FileNotFoundError) as error:
        return None, str(error)
    return head.float().train().requires_grad_(True), ''


class _Limited(Trainer):
    """A training that ends after its epochs, or after minutes if they are over before."""

    def __init__(
        self, recipe: Recipe, schedule: Schedule, folder: StateFolder,
        progress: TrainingProgress, minutes: float,
    ) -> None:
        super().__init__(recipe, schedule, folder, progress, None)
        self._minutes = minutes

    def _stop(self) -> None:
        raise KeyboardInterrupt  # teaching takes minutes and begins anew; what is slow is stored

    def done(self) -> float:
        """Share of the training that is done, 0 … 1."""
        return max(super().done(), min(1.0, self.elapsed / (60 * self._minutes)))


class _Glance(GlanceRecipe):
    """A glance network that goes on from the present one."""

    def __init__(self, args: TrainGlanceArgs, unnorm_key: str, present: Path) -> None:
        self._present = present
        super().__init__(args, unnorm_key)

    def new_network(self) -> nn.Module:
        """Return the present network, or a new one."""
        return begins_with('glance', self._present, self.model)[0] or super().new_network()


class _Eagle(EagleRecipe):
    """An EAGLE network that goes on from the present one."""

    def __init__(self, args: TrainEagleArgs, unnorm_key: str, present: Path) -> None:
        self._present = present
        super().__init__(args, unnorm_key)

    def new_network(self) -> nn.Module:
        """Return the present network, or a new one."""
        return begins_with('eagle', self._present, self.model)[0] or super().new_network()


def _glance(teaching: Teaching) -> _Glance:
    """Take the present network's dimensions: its weights fit no others."""
    args = TrainGlanceArgs(**teaching.arguments(128), drafter=teaching.out)
    folder = weights_folder(teaching.present, 'glance')
    if folder is not None:
        with contextlib.suppress(ValueError, OSError):  # what can't be read is not begun with
            config = GlanceConfig.from_dict(read_object(folder / 'config.json'))
            args = replace(args, **{name: getattr(config, name) for name in _SIZES})
    return _Glance(args, teaching.unnorm_key, teaching.present)


def _eagle(teaching: Teaching) -> _Eagle:
    args = TrainEagleArgs(**teaching.arguments(64), out=teaching.out / 'eagle')
    return _Eagle(args, teaching.unnorm_key, teaching.present)
