"""The one error of this package: a checkpoint that can't be used."""


class CheckpointError(ValueError):
    """A checkpoint folder, or what it holds, is not a usable OpenVLA. One clear line."""
