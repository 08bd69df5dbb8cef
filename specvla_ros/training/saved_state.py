"""The state that an interrupted training goes on from."""

from collections.abc import Collection
from pathlib import Path

from specvla_ros.errors import shown, SpecVLAError


def load_state(path: Path, keys: Collection[str], **options: object) -> dict:
    """
    Read what a training saved to resume from; ``options`` are those of ``torch.load``.

    :raises SpecVLAError: the file is damaged, or lacks one of the keys
    """
    import torch

    try:
        state = torch.load(path, **options)
    except Exception as error:  # pickle may raise anything at all
        reason = ' '.join(str(error).split())[:200] or type(error).__name__
        raise SpecVLAError(f"{path} can't be read ({reason}): delete {path.parent} and begin "
                           'again') from error
    if not isinstance(state, dict) or (missing := sorted(set(keys) - set(state))):
        what = f'lacks {missing}' if isinstance(state, dict) else f'holds {shown(state)}'
        raise SpecVLAError(f'{path} {what}: delete {path.parent} and begin again')
    return state
