"""The seeds that both numpy and torch take."""

from specvla_ros.errors import SpecVLAError

_MOST = 2**63 - 1  # numpy takes more, torch fails with an error of its own


def check_seed(seed: int) -> None:
    """Raise SpecVLAError for a seed that numpy or torch doesn't take."""
    if not 0 <= seed <= _MOST:
        raise SpecVLAError(f'seed is {seed}, must be 0 to {_MOST}')
