"""How well a number tells two groups apart."""

from collections.abc import Sequence

import numpy as np


def auroc(failed: Sequence[float], solved: Sequence[float]) -> float | None:
    """
    Return the area under the ROC curve of a number that shall be larger where something failed.

    It is the probability that a failed one has a larger number than a solved one, ties counted
    half (Mann–Whitney): 0.5 says nothing, 1 tells all. None where one of the groups is empty.
    """
    if not len(failed) or not len(solved):
        return None
    ranks = np.sign(np.subtract.outer(np.asarray(failed, float), np.asarray(solved, float)))
    return float((ranks.mean() + 1) / 2)
