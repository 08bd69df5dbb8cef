"""`docs/reference.md` says what the nodes offer."""
import os
import subprocess
import sys

import pytest

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes import reference


@pytest.mark.alone
def test_the_page_is_what_the_nodes_offer(tmp_path):
    path = tmp_path / 'reference.md'
    subprocess.run([sys.executable, '-m', 'specvla_ros.nodes.reference', str(path)],
                   check=True, cwd=reference.ROOT,
                   env={**os.environ, 'PYTHONPATH': str(reference.ROOT)})
    assert path.read_text() == reference.PAGE.read_text(), \
        f'the nodes have changed; run: {reference.COMMAND}'


@pytest.mark.alone
def test_an_end_that_nobody_explained_is_an_error(monkeypatch):
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'OFF')
    monkeypatch.delitem(reference.FOR['bag_player_node'], '/action')
    with pytest.raises(SpecVLAError, match='bag_player_node: /action must be explained in'):
        reference.page()
