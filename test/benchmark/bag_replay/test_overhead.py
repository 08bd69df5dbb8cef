"""`specvla overhead`: a real policy node, real topics, a few images."""
import json

import numpy as np
import pytest

from specvla_ros import cli


@pytest.mark.alone
def test_it_says_what_ros_adds_to_an_action(tiny_checkpoint, tmp_path, capsys):
    out = tmp_path / 'out'
    code = cli.main(['overhead', '--checkpoint', str(tiny_checkpoint), '--actions', '12',
                     '--decoder', 'ar', '--decoder', 'relaxed', '--threads', '1',
                     '--instruction', 'pick up the milk', '--out', str(out),
                     '--json', str(tmp_path / 'x.json')])
    assert code == 0
    document = json.loads((tmp_path / 'x.json').read_text())
    assert document == json.loads((out / 'report.json').read_text())
    assert [row['decoder'] for row in document['rows']] == ['ar', 'relaxed']
    for row in document['rows']:
        assert row['actions'] == len(row['ros_ms']) == 12
        whole, inference, ros = (row[key] for key in (
            'image_to_action_ms', 'ms_per_action', 'ros_ms_per_action'))
        assert whole['mean'] == pytest.approx(inference['mean'] + ros['mean'])
        assert 0 < ros['p50'] <= ros['p95'] <= ros['p99'] <= ros['max']
        assert ros['p50'] == pytest.approx(np.median(row['ros_ms']), abs=1e-3)
        assert inference['p50'] > 0
    said = capsys.readouterr().out
    assert 'ROS around it' in said and 'p99' in said
    assert (out / 'plot.png').stat().st_size > 10_000
    assert 'Traceback' not in (out / 'logs' / 'policy.log').read_text()


@pytest.mark.parametrize('options, reason', [
    (['--actions', '0'], '--actions 0: give 1 or more'),
    (['--side', '8'], '--side 8: give 16 to 4096 pixels'),
    (['--instruction', ' '], '--instruction is empty'),
    (['--decoder', 'sloppy'], "decoder is 'sloppy'"),
    (['--checkpoint', '/nowhere'], 'no checkpoint folder /nowhere'),
])
def test_bad_input_is_one_line_and_code_2(options, reason, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(['overhead', *options]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ') and reason in line
    assert list(tmp_path.iterdir()) == []
