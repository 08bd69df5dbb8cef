"""
Where the weights of drafters are: in a folder by the drafter's name.

    CHECKPOINT/drafters/eagle/      config.json, model.safetensors
    CHECKPOINT/drafters/glance/     the same

The layout before is still read: EAGLE's weights in ``CHECKPOINT/drafter`` itself, those of others
in folders within it. A folder given instead (``--drafter``) may be of either form.
"""

from __future__ import annotations

import json
from pathlib import Path

_FOLDER, _BEFORE = 'drafters', 'drafter'
_FIRST = 'eagle'  # the only one that had weights once


def beside(checkpoint: Path) -> Path:
    """Folder of the drafters of a checkpoint, whether it is there or not."""
    return checkpoint / _FOLDER


def weights_folder(drafters: Path, name: str) -> Path | None:
    """Folder of a drafter's weights; None = there are none."""
    return all_weights(drafters).get(name)


def all_weights(drafters: Path) -> dict[str, Path]:
    """Folders of the drafters that have weights, by name."""
    found: dict[str, Path] = {}
    before = [drafters.parent / _BEFORE] if drafters.name == _FOLDER else []
    for place in (*before, drafters):
        if (place / 'config.json').is_file():
            found[_named_in(place)] = place
        if place.is_dir():
            within = sorted(folder for folder in place.iterdir() if folder.is_dir())
            found |= {it.name: it for it in within if (it / 'config.json').is_file()}
    return found


def _named_in(folder: Path) -> str:
    """Name of the drafter whose weights stand in a folder itself: EAGLE, if it says no other."""
    try:
        kind = json.loads((folder / 'config.json').read_text(encoding='utf-8'))['model_type']
    except (ValueError, KeyError, TypeError):  # who reads the weights will say what is wrong
        return _FIRST
    # A published EAGLE calls itself anything, as 'llama'; ours, in drafters/NAME, say NAME.
    return kind if kind == folder.name else _FIRST


def check_given(folder: Path | None) -> None:
    """Raise FileNotFoundError if a folder of drafters was named and is none."""
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(
            f'drafter folder {folder} does not exist; name one that does, or none for the '
            "checkpoint's own")
