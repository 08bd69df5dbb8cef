"""What every node of ours stands on."""
import re


def test_spinning_leaves_nothing_behind(start):
    node = start('spinning_node.py')
    assert node.wait() == 0
    more, = re.findall(r'(-?\d+) more objects', node.output)
    assert int(more) < 100  # after a thousand callbacks
