"""
`libero_bridge_node` around a simulator that is none: a process for the tests.

The arm slides along x; the image's first pixel is (step, task, state); the task is solved once x
has reached 5 mm. Every step goes into the file FAKE_LOG, one JSON list a line. FAKE_BREAK=1 makes
the second step of task 1 raise.
"""
import json
import os
import sys
from types import SimpleNamespace

import numpy as np

from specvla_ros.nodes.libero_bridge import node as libero_bridge_node
from specvla_ros.nodes.runtime import run


def log(*entry):
    with open(os.environ['FAKE_LOG'], 'a') as file:
        file.write(json.dumps(entry) + '\n')


class FakeEnvironment:

    def __init__(self, suite, task, resolution):
        log('make', suite, task)
        self.suite, self.task_id, self.resolution = suite, task, resolution
        self.instruction, self.max_steps = f'do task {task}', 8

    def reset(self, state):
        log('reset', self.task_id, state)
        self._step, self._x, self._state = 0, 0.0, state
        return self._observe()

    def step(self, delta):
        log('step', *np.round(delta, 6).tolist())
        self._step += 1
        self._x += delta[0]
        if os.environ.get('FAKE_BREAK') and self.task_id == 1 and self._step == 2:
            raise RuntimeError('the simulation exploded')
        return self._observe()

    def close(self):
        log('close')

    def _observe(self):
        image = np.zeros((self.resolution, self.resolution, 3), np.uint8)
        image[0, 0] = self._step, self.task_id, self._state
        return SimpleNamespace(
            image=image, eef_position=np.array([self._x, 0.0, 1.0]),
            eef_quaternion=np.array([0.0, 0.0, 0.0, 1.0]), joint_positions=np.arange(7.0),
            gripper_width=0.08, success=self._x >= 0.005 - 1e-9)


if __name__ == '__main__':
    sys.exit(run(libero_bridge_node.NAME,
                 lambda: libero_bridge_node.LiberoBridgeNode(FakeEnvironment)))
