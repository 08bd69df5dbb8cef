"""
Two Ray nodes: the rows and the words of one process, and a killed node costs only time.

Tests stand in the order in which they run: the last ones kill a node.
"""

import dataclasses
import json
import os
from pathlib import Path
import shutil
import signal
import time

from fake_players import FakePlayer
import pytest

from specvla_ros.benchmark.episodes import evaluation
from specvla_ros.benchmark.episodes.plan import EvalArgs
from specvla_ros.benchmark.records import EpisodeLog
from specvla_ros.errors import SpecVLAError
from specvla_ros.training import regenerate
from specvla_ros.training.adapting import command as adapting
from specvla_ros.training.adapting.arguments import AdaptArgs
from specvla_ros.training.regenerate import RegenerateArgs
from specvla_ros.workforce.crew import Crew
from specvla_ros.workforce.ray_actors import check_version, RayActors
from specvla_ros.workforce.same_folders import SameFolders
from test.training.conftest import write_episode
from test.training.drafter_data import write_target

ray = pytest.importorskip('ray', reason="Ray is not installed: pip install '.[ray]'")

STORE = 80 << 20  # bytes, about the least that Ray takes


@pytest.fixture(scope='module')
def nodes():
    """Two nodes of two processors each, the head without any: it can't be killed."""
    from ray.cluster_utils import Cluster

    # The nodes import the fake players by name.
    players = str(Path(__file__).parents[1] / 'benchmark')
    before = os.environ.get('PYTHONPATH')
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, (players, before)))
    quickly = {'health_check_initial_delay_ms': 0, 'health_check_period_ms': 200,
               'health_check_timeout_ms': 500, 'health_check_failure_threshold': 3}
    cluster = Cluster(initialize_head=True, head_node_args={
        'num_cpus': 0, 'object_store_memory': STORE, 'include_dashboard': False,
        '_system_config': quickly})
    both = [cluster.add_node(num_cpus=2, object_store_memory=STORE) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level='error')
    cluster.wait_for_nodes()
    yield both
    ray.shutdown()
    cluster.shutdown()
    os.environ.pop('PYTHONPATH')
    if before is not None:
        os.environ['PYTHONPATH'] = before


@pytest.fixture
def args(tiny_checkpoint, tmp_path, monkeypatch):
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / 'checkpoint')
    monkeypatch.chdir(tmp_path)
    return EvalArgs(tasks=(0, 1), trials=3, checkpoint=checkpoint, decoder=('ar', 'strict'),
                    threads=1)


def rows(folder):
    episodes = EpisodeLog(folder / 'episodes.jsonl').episodes
    return sorted(episode.to_json() for episode in episodes)


def expected(args, tmp_path):
    assert evaluation.run(dataclasses.replace(args, out=tmp_path / 'one'), FakePlayer()) == 0
    return rows(tmp_path / 'one')


def test_two_nodes_give_the_rows_of_one_process(nodes, args, tmp_path):
    there = dataclasses.replace(args, ray='auto', workers=4, out=tmp_path / 'ray')
    pids = tmp_path / 'pids'
    pids.mkdir()
    assert evaluation.run(there, FakePlayer(pids=pids, seconds=0.3)) == 0
    assert rows(there.out) == expected(args, tmp_path)
    assert len({path.name.split('-')[0] for path in pids.iterdir()}) > 1
    report = json.loads((there.out / 'report.json').read_text())
    assert report['config']['ray'] is True
    assert [row['episodes'] for row in report['rows'] if row['task'] is None][:1] == [6]


def test_what_keeps_a_worker_on_ray_from_starting_is_the_users_to_read(nodes, args):
    there = dataclasses.replace(args, ray='auto')
    with pytest.raises(SpecVLAError, match='^no checkpoint folder x$'):
        evaluation.run(there, FakePlayer(no_start='no checkpoint folder x'))
    assert evaluation.run(there, FakePlayer(raises=((0, 0, 'ar'),))) == 1


def test_other_weights_on_a_machine_are_refused(nodes, args, tmp_path):
    """All is one machine here, so the weights change after the driver has read them."""
    same = SameFolders.of([args.checkpoint])
    (args.checkpoint / 'other.json').write_text('{}')
    crew = Crew(RayActors(FakePlayer(), 'auto', 1, folders=same), 1)
    with pytest.raises(SpecVLAError, match=r'holds other weights \(sha256 .*copy the same folder'):
        list(crew.run(evaluation.make_plan(args).trials_left([])))


def test_a_worker_that_fits_on_no_machine_is_refused(nodes, args, tmp_path):
    there = dataclasses.replace(args, ray='auto', threads=64, out=tmp_path / 'ray')
    with pytest.raises(SpecVLAError, match='takes 64 processors .--threads.*largest of 3 machines'
                                           ' has 2 processors'):
        evaluation.run(there, FakePlayer())
    assert not there.out.exists()


def test_no_cluster_is_one_line(args, monkeypatch):
    monkeypatch.delenv('RAY_ADDRESS', raising=False)
    with pytest.raises(SpecVLAError, match='--ray ray://x:1: run the command on a machine of'):
        evaluation.run(dataclasses.replace(args, ray='ray://x:1'), FakePlayer())


def test_another_version_of_the_package_is_refused():
    with pytest.raises(SpecVLAError, match='has specvla_ros .*, not 0.0.0 as the machine that'):
        check_version('0.0.0')


def test_nothing_waits_for_ray_that_has_not_ended(nodes):
    began = time.monotonic()
    events = Crew(RayActors(FakePlayer(seconds=60), 'auto', 1), 2).run(
        [evaluation_trial(state) for state in range(3)])
    next(events)
    events.close()
    assert time.monotonic() - began < 30


def evaluation_trial(state):
    from specvla_ros.benchmark.episodes.trial import Trial
    return Trial('libero_object', 0, state, 'ar')


def test_adapt_and_regenerate_let_two_nodes_say_the_words_of_one_process(nodes, tmp_path):
    """The nodes are given the frames: the recordings are on the leading machine alone."""
    for seed in range(8):
        write_episode(tmp_path / 'data', seed % 2, seed)
    target = write_target(tmp_path / 'target')
    adapt = AdaptArgs((tmp_path / 'data',), checkpoint=target, epochs=1, measured=4)
    said = RegenerateArgs(target, data=tmp_path / 'data', batch=5, lanes=1)
    for run, args, words in ((adapting.run, adapt, 'words'), (regenerate.run, said, '.')):
        one, two = (tmp_path / run.__module__ / name for name in ('one', 'two'))
        run(dataclasses.replace(args, out=one))
        run(dataclasses.replace(args, out=two, ray='auto'))
        files = sorted(it.relative_to(one) for it in (one / words).rglob('*.*'))
        assert len(files) > 4
        for file in files:
            assert (one / file).read_bytes() == (two / file).read_bytes(), file


@pytest.mark.parametrize('what', ['worker', 'node'])  # the node is gone for what comes after
def test_kill_9_in_the_middle_loses_and_doubles_nothing(nodes, args, tmp_path, what,
                                                        monkeypatch):
    """A node is its raylet; Linux gives its workers no other way than to die with it."""
    there = dataclasses.replace(args, ray='auto', workers=4, out=tmp_path / 'ray')
    (pids := tmp_path / 'pids').mkdir()
    killed, append = [], EpisodeLog.append

    def kill(log, episode):
        append(log, episode)
        if len(log.episodes) == 3 and not killed:
            if what == 'node':
                pid = nodes[0].all_processes['raylet'][0].process.pid
            else:
                latest = max(pids.iterdir(), key=lambda it: it.stat().st_mtime)
                pid = int(latest.name.split('-')[0])
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    monkeypatch.setattr(EpisodeLog, 'append', kill)
    assert evaluation.run(there, FakePlayer(pids=pids, seconds=1.0)) == 0
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert killed
    assert rows(there.out) == expected(args, tmp_path)
    if what == 'worker':
        assert len(list(pids.iterdir())) > 12  # one was played twice, and counted once
