"""The order in which people number files: bag_2 comes before bag_10."""

from __future__ import annotations

from pathlib import Path
import re


def natural(path: Path) -> tuple[list[int | str], str]:
    """Return a key to sort paths of one folder by: digits in a name count as a number."""
    # The name itself decides between 01 and 1, so that the order is always the same.
    return [int(part) if part.isdecimal() else part
            for part in re.split(r'(\d+)', path.name)], path.name
