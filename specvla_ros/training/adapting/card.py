"""What is said of an adapted drafter: from what it was made, and what it brought."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from specvla_ros import __version__
from specvla_ros.recordings.episode import Recording
from specvla_ros.training.adapting.split import Division
from specvla_ros.training.adapting.trial import Comparison


def made_of(
    recordings: Sequence[Recording], division: Division, frames: int, taken: int
) -> dict[str, Any]:
    """
    Return from what drafters are taught, for reports.

    :param frames: how many were learned from
    :param taken: for how many of them the recorded words were taken
    """
    return {
        'recordings': [{
            'path': str(recording.path), 'kind': recording.kind, 'sign': recording.sign,
            'episodes': len(recording.episodes), 'frames': recording.frames,
            'remarks': list(recording.remarks)} for recording in recordings],
        'instructions': instructions(recordings),
        'learned_frames': frames, 'taken_words': taken,
        'learned_parts': len(division.learned), 'held_out_parts': len(division.held_out),
        'held_out': division.kind,
    }


def instructions(recordings: Sequence[Recording]) -> list[str]:
    """Return all instructions, each once, in their order."""
    return list(dict.fromkeys(episode.instruction for recording in recordings
                              for episode in recording.episodes))


def card(
    name: str, target: Path, target_sha256: str, made: dict[str, Any],
    comparisons: Sequence[Comparison],
) -> str:
    """Return the model card of a drafter, Markdown."""
    rows = '\n'.join(
        f'| {it.rule} | {it.presets} | {it.before:.2f} | {it.after:.2f} | {it.percent} |'
        for it in comparisons)
    recordings = '\n'.join(
        f'| `{Path(each["path"]).name}` | {each["kind"]} | {each["episodes"]} | {each["frames"]} '
        f'| {each["sign"]} |' for each in made['recordings'])
    told = '\n'.join(f'* {text}' for text in made['instructions'][:50])
    return f"""# Model card: drafter `{name}`, adapted

A drafter for the target `{target.name}` ({target_sha256[:12]}), taught by `specvla adapt` of
specvla_ros {__version__} with what that target says to the frames of these recordings. It guesses,
the target verifies: under a strict rule no token changes by it, only the time.

## What it was made from
| recording | kind | episodes | frames | sign |
|---|---|---|---|---|
{recordings}

{made['learned_frames']} frames were learned from. For {made['taken_words']} of them the target's
recorded actions were taken, after a spot check; it said the others anew.

What the robot was told:
{told}

## What it brought
Passes of the target an action, the prefill counted, on {comparisons[0].actions} frames that
were not learned from ({made['held_out']}).

| rule | presets | before | after | change |
|---|---|---|---|---|
{rows}

It was measured on these recordings alone. Other tasks, cameras and places may fare worse than
before.
"""
