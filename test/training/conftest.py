"""A tiny data set in the collected format, and a tiny target shape."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from specvla_ros.training.shape import TargetShape

SUITE = 'libero_object'
INSTRUCTIONS = ('pick up the milk', 'pick up the ketchup and place it in the basket')
OF_INIT = dict(shape=TargetShape(), text_tokens=384)  # not given: they are those of --init
TINY = TargetShape(image_size=32, patch_size=8, vision_width=16, vision_blocks=1, vision_heads=2,
                   vision_mlp=16, hidden=32, layers=2, mlp=32, head_dim=16)


def write_episode(folder: Path, task: int, seed: int, frames: int = 8,
                  success: bool = True) -> Path:
    """Write an episode whose picture shows a bright square where the action says to go."""
    random = np.random.default_rng([task, seed])
    target = random.uniform(-1, 1, (frames, 2))
    action = np.zeros((frames, 7), np.float32)
    action[:, :2] = target
    action[:, 6] = target[:, 0] > 0
    jpegs = np.empty(frames, object)
    for index, (x, y) in enumerate(target):
        image = np.full((64, 64, 3), 60 * (task + 1), np.uint8)
        column, row = int(24 + 20 * x), int(24 + 20 * y)
        image[row:row + 12, column:column + 12] = (250, 240, 20)
        jpegs[index] = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    path = folder / SUITE / f'task{task}' / f'seed{seed}.npz'
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, jpeg=jpegs, action=action, frame=np.arange(frames, dtype=np.int32),
             state=np.concatenate((target, -target), axis=1).astype(np.float32),
             instruction=INSTRUCTIONS[task], success=success)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten episodes of two tasks."""
    folder = tmp_path / 'data'
    for task in (0, 1):
        for seed in range(5):
            write_episode(folder, task, seed)
    return folder
