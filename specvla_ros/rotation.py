"""Rotations of data sets as rotation vectors, the one form that leaves the policy."""

import numpy as np
from numpy.typing import NDArray


def rotation_vectors(angles: NDArray[np.floating], convention: str) -> NDArray[np.float64]:
    """
    Angles of a data set [n, 3] (rad) → rotation vectors [n, 3] (rad), at most π long.

    convention: one of `data_sets.ROTATIONS`; rotation vectors stay as they are.
    """
    return _CONVERSIONS[convention](np.asarray(angles, np.float64))


def _from_euler_xyz(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn about the fixed axes x, y, z one after the other: R = Rz(yaw) Ry(pitch) Rx(roll)."""
    (sx, sy, sz), (cx, cy, cz) = np.sin(angles / 2).T, np.cos(angles / 2).T
    # the unit quaternion qz qy qx
    w = cz * cy * cx + sz * sy * sx
    vector = np.stack([cz * cy * sx - sz * sy * cx,
                       cz * sy * cx + sz * cy * sx,
                       sz * cy * cx - cz * sy * sx], axis=1)
    sine = np.linalg.norm(vector, axis=1)
    # q and -q are the same rotation; with w >= 0 the angle is the short way round
    angle = 2 * np.arctan2(sine, np.abs(w))
    # angle / sine is 2 where there is no rotation; 1 stands in for a divisor of 0
    factor = np.where(sine > 0, angle / np.where(sine > 0, sine, 1), 2)
    return (np.where(w < 0, -factor, factor)[:, None]) * vector


_CONVERSIONS = {'rotation_vector': lambda angles: angles, 'euler_xyz': _from_euler_xyz}
