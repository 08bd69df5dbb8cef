"""Look at processes that go on: what a listing of /proc names may be gone when it is read."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar('T')


def read_each(pattern: str, read: Callable[[Path], T] = Path.read_text) -> Iterator[T]:
    """Yield what `read` gives for each file /proc/`pattern` that is still there by then."""
    for path in Path('/proc').glob(pattern):
        try:
            yield read(path)
        except (FileNotFoundError, ProcessLookupError):
            continue
