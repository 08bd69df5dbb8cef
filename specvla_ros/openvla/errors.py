"""
The errors of this package: a checkpoint or a library that can't be used, and their one line.

This package imports nothing of ours, so `one_line` stands here and in `specvla_ros/errors.py`.
"""


class CheckpointError(ValueError):
    """A checkpoint folder, or what it holds, is not a usable OpenVLA. One clear line."""


class LibraryError(ValueError):
    """A library is installed in a version that this package does not work with. One clear line."""


def one_line(said: object, most: int | None = None) -> str:
    """Return an error or a text in one line, cut to `most` characters; an empty error's type."""
    line = ' '.join(str(said).split())[:most]
    return line or (type(said).__name__ if isinstance(said, BaseException) else '')
