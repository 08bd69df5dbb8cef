"""The drafters that recordings can teach: with what they are trained, and by what measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
import shutil

from torch import nn

from specvla_ros.decoding.drafters import EagleHead, GlanceHead
from specvla_ros.drafter_folders import weights_folder
from specvla_ros.errors import SpecVLAError
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training.optimizer import OptimizerSettings
from specvla_ros.training.train_drafter import EagleTraining, TrainDrafterArgs
from specvla_ros.training.train_glance import GlanceTraining, TrainGlanceArgs

GENTLE = 0.5  # of the usual learning rate, where training begins with weights that are good


@dataclass(frozen=True, slots=True)
class Lesson:
    """
    A drafter to teach.

    name: of the drafter and its folder. presets: a lossless decoder that drafts with it, and a
    relaxed one. without: the ones to be better than where there are no weights yet.
    """

    name: str
    presets: tuple[str, str]
    without: tuple[str, str]


def lessons(chunk: int, eagle: bool) -> tuple[Lesson, ...]:
    """Return what is taught for a checkpoint that says so many control steps."""
    if chunk == 1:
        glance = Lesson('glance', ('glance', 'glance_relaxed'), ('history', 'history_relaxed'))
    else:  # a chunk's held step guesses nothing, and costs a row a token
        glance = Lesson('glance', ('glance_jacobi', 'glance_jacobi_relaxed'),
                        ('jacobi', 'history_relaxed'))
    both = (glance, Lesson('eagle', ('strict', 'relaxed'), ('history', 'history_relaxed')))
    return both if eagle else both[:1]


@dataclass(frozen=True, slots=True)
class Teaching:
    """How a drafter is taught: target and its words, the present weights, time and threads."""

    target: Path
    unnorm_key: str
    words: Path
    present: Path | None  # folder of all drafters' weights
    minutes: float
    epochs: float
    frames: int
    lanes: int
    device: str
    seed: int


def present_head(lesson: Lesson, teaching: Teaching, model: OpenVLA) -> tuple[nn.Module | None, str]:
    """
    Return the present network to begin with, in float32, and what is to be said of it.

    None where there is none, or one that doesn't fit: '' or the reason.
    """
    folder = teaching.present and weights_folder(teaching.present, lesson.name)
    if folder is None:
        return None, ''
    try:
        kind = GlanceHead if lesson.name == 'glance' else EagleHead
        head = kind.from_pretrained(folder, model)
    except (SpecVLAError, FileNotFoundError) as error:
        return None, str(error)
    return head.float().train().requires_grad_(True), ''
