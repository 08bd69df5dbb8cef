"""Which transformers this package works with: the same range as in requirements/base.txt."""

from __future__ import annotations

import transformers

from .errors import LibraryError

TRANSFORMERS = ((5, 18), (6,))  # from, below


def check_transformers() -> None:
    """
    See that the installed transformers is one that the models here are built on.

    With another one parts have other names: weights find no place, or a layer lacks what the
    fused path reads. Raises LibraryError with the version found.
    """
    first, above = TRANSFORMERS
    found = tuple(int(part) for part in transformers.__version__.split('.')[:2] if part.isdigit())
    if not first <= found < above:
        allowed = f'>={".".join(map(str, first))},<{".".join(map(str, above))}'
        raise LibraryError(
            f'transformers {transformers.__version__} is installed, {allowed} is needed: '
            f"pip install 'transformers{allowed}'")
