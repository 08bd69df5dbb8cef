"""A node whose timer fires a thousand times a second; says what spinning leaves behind."""
import gc
import sys
import time

from rclpy.node import Node

from specvla_ros.nodes.runtime import run


class SpinningNode(Node):

    def __init__(self):
        super().__init__('spinning_node')
        self._fired = 0
        self.create_timer(0.001, self._fire)

    def work(self):
        time.sleep(0.5)
        fired, objects = self._fired, count_objects()
        while self._fired < fired + 1000:
            time.sleep(0.01)
        print(f'{count_objects() - objects} more objects', flush=True)

    def close(self):
        pass

    def _fire(self):
        self._fired += 1


def count_objects():
    gc.collect()
    return len(gc.get_objects())


if __name__ == '__main__':
    sys.exit(run('spinning_node', SpinningNode))
