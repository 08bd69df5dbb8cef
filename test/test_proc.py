"""What looks at running processes bears that they go on meanwhile."""

import os

from test.proc import read_each


def test_a_file_that_is_gone_when_it_is_read_is_left_out(tmp_path):
    # The listing of the open files is itself an open file, and closed before they are read.
    with open(tmp_path / 'open', 'w') as file:
        assert file.name in read_each('self/fd/*', os.readlink)
    left = list(read_each('self/fd/*', os.readlink))
    assert left and file.name not in left and '/proc/' not in ''.join(left)
