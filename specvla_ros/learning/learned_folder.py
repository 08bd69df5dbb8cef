"""Where a head is kept that was learned while running: a folder of drafters, with a model card."""

from __future__ import annotations

from pathlib import Path
import shutil

from specvla_ros import __version__
from specvla_ros.decoding.drafters import GlanceHead
from specvla_ros.drafter_folders import all_weights
from specvla_ros.errors import SpecVLAError
from specvla_ros.files import whole_folder
from specvla_ros.learning.learner import LearnerState
from specvla_ros.writable import check_writable

_NAME, _CARD = 'glance', 'README.md'
_FIRST_LINE = '# Model card: drafter `glance`, learned while running'


def check_learned_folder(folder: Path, present: Path) -> None:
    """
    Check that the drafters may be kept in a folder in which only such drafters stand, or nothing.

    :param present: of the drafters in use, which are never changed
    :raises SpecVLAError: it holds something else, is in use, or can't be written
    """
    there, used = folder.resolve(), present.resolve()
    if there == used or used in there.parents or there in used.parents:
        raise SpecVLAError(f'adapt_out is {folder}, where the drafters in use stand ({present}): '
                           'they are never changed; choose another folder')
    if folder.exists() and not folder.is_dir():
        raise SpecVLAError(f'adapt_out {folder} is a file; choose a folder')
    if folder.is_dir() and any(folder.iterdir()) and not _is_ours(folder):
        raise SpecVLAError(f'adapt_out {folder} holds what was not learned while running; choose '
                           'an empty folder, or one that is not there')
    check_writable('adapt_out', folder)


def write_learned(
    folder: Path, present: Path, head: GlanceHead, state: LearnerState, target: str,
    instructions: list[str],
) -> None:
    """
    Write a head, and the other drafters in use beside it: whole or not at all.

    :raises SpecVLAError: the disk is full or not writable
    """
    with whole_folder(folder) as temporary:
        for name, place in all_weights(present).items():
            if name != _NAME:
                shutil.copytree(place, temporary / name)
        head.save_pretrained(temporary / _NAME)
        (temporary / _NAME / _CARD).write_text(
            _card(state, target, instructions), encoding='utf-8')


def _is_ours(folder: Path) -> bool:
    card = folder / _NAME / _CARD
    return card.is_file() and card.read_text(encoding='utf-8', errors='replace').startswith(
        _FIRST_LINE)


def _card(state: LearnerState, target: str, instructions: list[str]) -> str:
    told = '\n'.join(f'* {text}' for text in instructions) or '* (not known)'
    brought = 'It was not measured since it is in use.' if state.used is None else (
        f'On the last actions, from which it had not learned, it would have needed '
        f'{state.used:.2f} passes of the target an action by its guesses alone, the head that was '
        f'loaded {state.loaded:.2f}.')
    return f"""{_FIRST_LINE}

A drafter for the target `{target}`, taught by `policy_node` of specvla_ros {__version__}
(parameter `adapt`) with what that target said while a robot acted. It guesses, the target
verifies: under a strict rule no token changes by it, only the time.

## What it was made from
The head that was loaded, and the actions of one run: at the end {state.kept} of them were kept to
learn from. Heads put in use: {state.swaps}; taken back: {state.taken_back}. The last change:
{state.last}.

What the robot was told, the last ones:
{told}

## What it brought
{brought} Other tasks, cameras and places may fare worse than before.
"""
