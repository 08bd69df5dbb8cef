"""How far one action lies from another of the same observation."""

from __future__ import annotations

import numpy as np

from specvla_ros.benchmark.policy_like import ActionLike
from specvla_ros.benchmark.records import Deviation

# Distance of two neighbouring bin centres of a normalised action: [-1, 1] cut by 256 edges.
BIN_WIDTH = 2 / 255


def deviation(action: ActionLike, reference: ActionLike) -> Deviation:
    """
    Return how far an action is from the reference's, both `policy.Action`s of one observation.

    Bins are told apart by their centres, so that the two ids that decode to the same value are
    no distance apart.
    """
    centres = np.abs(np.asarray(action.normalized) - np.asarray(reference.normalized))
    si = np.abs(np.asarray(action.si, float) - np.asarray(reference.si, float))
    return Deviation(
        max_bins=int(np.rint(centres / BIN_WIDTH).max()),
        mm=float(1000 * si[..., :3].mean()),
        deg=float(np.degrees(si[..., 3:6]).mean()),
    )
