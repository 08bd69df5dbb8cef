"""The errors of this package: a checkpoint or a library that can't be used."""


class CheckpointError(ValueError):
    """A checkpoint folder, or what it holds, is not a usable OpenVLA. One clear line."""


class LibraryError(ValueError):
    """A library is installed in a version that this package does not work with. One clear line."""
