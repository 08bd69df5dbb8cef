"""Conventions of rotation, against rotations somebody else computes."""
import cv2
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from specvla_ros.data_sets import ROTATIONS
from specvla_ros.rotation import rotation_vectors

QUARTER = np.pi / 2
ANGLE = st.floats(-np.pi, np.pi)


def turn(axis, angle):
    """Return the rotation about an axis of the frame as a matrix."""
    return cv2.Rodrigues(angle * np.eye(3)[axis])[0]


@pytest.mark.parametrize('euler, vector', [
    ((0, 0, 0), (0, 0, 0)),
    ((0.3, 0, 0), (0.3, 0, 0)),
    ((0, -0.3, 0), (0, -0.3, 0)),
    ((0, 0, 1e-9), (0, 0, 1e-9)),
    # x to y about z after y to z about x: the axes go round, a third of a turn about (1, 1, 1)
    ((QUARTER, 0, QUARTER), np.full(3, 2 * np.pi / 3 / np.sqrt(3))),
    ((0, 0, 1.5 * np.pi), (0, 0, -QUARTER)),
])
def test_euler_angles_known_by_hand(euler, vector):
    np.testing.assert_allclose(rotation_vectors([euler], 'euler_xyz'), [vector], atol=1e-15)


@given(st.tuples(ANGLE, ANGLE, ANGLE))
def test_euler_angles_are_turns_about_fixed_axes_one_after_the_other(euler):
    vector, = rotation_vectors([euler], 'euler_xyz')
    expected = turn(2, euler[2]) @ turn(1, euler[1]) @ turn(0, euler[0])
    np.testing.assert_allclose(cv2.Rodrigues(vector)[0], expected, atol=1e-9)
    assert np.linalg.norm(vector) <= np.pi + 1e-12


@given(st.tuples(ANGLE, ANGLE, ANGLE))
def test_rotation_vectors_stay_as_they_are(vector):
    np.testing.assert_array_equal(rotation_vectors([vector], 'rotation_vector'), [vector])


@pytest.mark.parametrize('convention', ROTATIONS)
def test_every_convention_takes_a_chunk(convention):
    assert rotation_vectors(np.zeros((4, 3), np.float32), convention).shape == (4, 3)
