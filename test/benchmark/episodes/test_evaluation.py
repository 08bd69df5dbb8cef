"""`specvla eval`: what it refuses, how it resumes, and once with the real simulator."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

from fake_players import FakePlayer
import numpy as np
import pytest

from specvla_ros.benchmark import run_folder
from specvla_ros.benchmark.episodes import evaluation
from specvla_ros.benchmark.episodes.evaluation import EvalArgs, run
from specvla_ros.benchmark.episodes.plan import make_plan
from specvla_ros.benchmark.episodes.player import SuitePolicies, TaskPlayer
from specvla_ros.benchmark.episodes.rollout import RolloutConfig
from specvla_ros.benchmark.episodes.trial import Trial
from specvla_ros.benchmark.records import EpisodeLog
from specvla_ros.execution import Execution
from specvla_ros.policy import Policy


@pytest.fixture
def args(tiny_checkpoint, tmp_path, monkeypatch):
    """Two tasks, two states, in a folder of its own; the checkpoint is only checked and hashed."""
    checkpoint = shutil.copytree(tiny_checkpoint, tmp_path / 'checkpoint')
    monkeypatch.chdir(tmp_path)
    return EvalArgs(tasks=(0, 1), trials=2, checkpoint=checkpoint, decoder=('ar', 'strict'))


@pytest.mark.parametrize('change, message', [
    ({'decoder': ('ar', 'nonsense')}, r"'nonsense', must be one of .*ar.*relaxed.*strict"),
    ({'decoder': ('ar', 'ar')}, 'there is a decoder ar already'),
    ({'suite': ('libero_objects',)}, "unknown suite 'libero_objects'; there are: libero_spatial"),
    ({'tasks': (10,)}, 'libero_object has no task 10; there are: 0 pick up'),
    ({'tasks': (-1,)}, 'has no task -1'),
    ({'trials': 0}, '--trials 0: .* 1 to 50'),
    ({'trials': 51}, '--trials 51'),
    ({'workers': 0}, '--workers 0: give 1 or more'),
    ({'threads': -1}, '--threads -1'),
    ({'max_steps': 0}, '--max-steps 0'),
    ({'reference_every': -1}, '--reference-every -1'),
    ({'json': 'no/such/folder/x.json'}, 'there is no folder'),
    ({'checkpoint': 'nowhere'}, 'no checkpoint folder nowhere'),
    ({'drafter': 'nowhere'}, 'no drafter folder nowhere'),
    ({'safety': 'nowhere'}, 'nowhere.yaml'),
    ({'safety': 'no/such/envelope.yaml'}, 'no/such/envelope.yaml'),
])
def test_bad_input_is_refused_in_one_line_before_anything_is_made(args, change, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        run(dataclasses.replace(args, **change), FakePlayer())
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'runs').exists()


def test_all_decoders_play_each_state_in_rotating_order(args):
    trials = make_plan(args).trials_left([])
    assert [(*trial.place[1:], trial.decoder) for trial in trials] == [
        (0, 0, 'ar'), (0, 0, 'strict'), (0, 1, 'strict'), (0, 1, 'ar'),
        (1, 0, 'strict'), (1, 0, 'ar'), (1, 1, 'ar'), (1, 1, 'strict')]


def test_how_much_of_a_chunk_is_executed_and_how_late_is_part_of_a_run(args):
    chunks = dataclasses.replace(args, chunk=8, execute_steps=4, latency_s=0.15)
    plan = make_plan(chunks)
    assert plan.execution == Execution(4, 3)
    assert (plan.config['execute_steps'], plan.config['latency_s']) == (4, 0.15)
    assert evaluation.player_of(chunks, plan).rollout.execution == plan.execution
    assert make_plan(dataclasses.replace(args, chunk=8)).execution == Execution(8, 0)
    assert make_plan(dataclasses.replace(chunks, latency_s=0.0)).folder != plan.folder
    for change, message in (({'execute_steps': 9}, 'execute_steps is 9, must be from 1 to 8'),
                            ({'execute_steps': 0}, 'execute_steps is 0, must be from 1 to 8'),
                            ({'latency_s': -0.1}, 'latency_s is -0.1, must be 0 s or more')):
        with pytest.raises(ValueError, match=message):
            make_plan(dataclasses.replace(chunks, **change))


def test_a_run_leaves_report_plot_and_episodes(args, tmp_path, capsys):
    assert run(dataclasses.replace(args, json=tmp_path / 'x.json'), FakePlayer()) == 0
    folder = next((tmp_path / 'runs').iterdir())
    report = json.loads((folder / 'report.json').read_text())
    assert report == json.loads((tmp_path / 'x.json').read_text())
    assert report['rows'][0]['episodes'] == 4
    assert report['rows'][1]['tokens_equal_ar']['episodes_equal'] == 4
    assert report['config']['decoders']['strict']['drafter']['name'] == 'eagle'
    assert (folder / 'plot.png').read_bytes().startswith(b'\x89PNG')
    assert str(folder.relative_to(tmp_path)) in capsys.readouterr().out


def test_the_same_command_goes_on_where_it_was_interrupted(args, tmp_path):
    run(args, FakePlayer())
    path = next((tmp_path / 'runs').iterdir()) / 'episodes.jsonl'
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(''.join(lines[:3]))
    # Of the second state one decoder is left, of the others both.
    left = make_plan(args).trials_left(EpisodeLog(path).episodes)
    assert [trial.place[1:] for trial in left] == [(0, 1), *[(1, 0)] * 2, *[(1, 1)] * 2]
    run(args, FakePlayer())
    assert sorted(path.read_text().splitlines()) == sorted(line.strip() for line in lines)


def test_a_finished_run_is_only_reported_again(args, capsys):
    run(args, FakePlayer())
    assert run(args, FakePlayer(no_start='must not be started')) == 0
    assert '8 of 8 episodes are in' in capsys.readouterr().out


def test_more_trials_continue_and_fewer_are_reported_of_the_same_run(args, tmp_path):
    run(args, FakePlayer())
    run(dataclasses.replace(args, trials=3), FakePlayer())
    folder, = (tmp_path / 'runs').iterdir()
    assert len((folder / 'episodes.jsonl').read_text().splitlines()) == 12
    run(dataclasses.replace(args, trials=1), FakePlayer(no_start='must not be started'))
    assert json.loads((folder / 'report.json').read_text())['rows'][0]['episodes'] == 2


def test_another_configuration_is_refused_in_the_same_folder(args, tmp_path):
    args = dataclasses.replace(args, out=tmp_path / 'mine')
    run(args, FakePlayer())
    with pytest.raises(ValueError, match=r'config.reference_every \(10, now 0\)'):
        run(dataclasses.replace(args, reference_every=0), FakePlayer())


def test_other_weights_are_refused_in_the_same_folder_and_get_their_own_without_one(
        args, tmp_path):
    run(args, FakePlayer())
    run(dataclasses.replace(args, out=tmp_path / 'mine'), FakePlayer())
    (args.checkpoint / 'other.json').write_text('{}')
    with pytest.raises(ValueError, match=r'checkpoint.target_sha256 \('):
        run(dataclasses.replace(args, out=tmp_path / 'mine'), FakePlayer())
    run(args, FakePlayer())
    assert len(list((tmp_path / 'runs').iterdir())) == 2


def test_under_an_envelope_it_is_another_run_and_the_report_says_which(args, tmp_path):
    run(args, FakePlayer())
    run(dataclasses.replace(args, safety='safety_arm'), FakePlayer())
    reports = [json.loads((folder / 'report.json').read_text())['config']
               for folder in (tmp_path / 'runs').iterdir()]
    assert sorted('safety' in config for config in reports) == [False, True]
    envelope, = (config['safety'] for config in reports if 'safety' in config)
    assert envelope['step_translation_m'] > 0
    plan = make_plan(dataclasses.replace(args, safety='safety_arm'))
    player = evaluation.player_of(dataclasses.replace(args, safety='safety_arm'), plan)
    assert player.rollout.safety.step_translation_m == envelope['step_translation_m']


def test_a_folder_that_holds_something_else_is_not_touched(args, tmp_path):
    with pytest.raises(ValueError, match='is not empty and holds no evaluation'):
        run(dataclasses.replace(args, out=args.checkpoint), FakePlayer())
    assert not {'run.json', 'episodes.jsonl'} & {path.name for path in args.checkpoint.iterdir()}


def test_a_second_process_on_the_same_run_is_refused(args):
    plan = make_plan(args)
    with evaluation.open_run(plan):
        with pytest.raises(ValueError, match='another process'):
            run(args, FakePlayer())


def two_suites(args):
    """Give the checkpoint statistics of two suites, one under its other name."""
    config = json.loads((args.checkpoint / 'config.json').read_text())
    one = config['norm_stats']['libero_object']
    wide = {'action': one['action'] | {'q99': [3.0] * 7}}
    (args.checkpoint / 'dataset_statistics.json').write_text(json.dumps({
        'libero_object': one, 'libero_spatial_no_noops': wide}))
    return dataclasses.replace(args, suite=('libero_spatial', 'libero_object'), trials=1)


def test_each_suite_is_evaluated_with_its_own_statistics(args):
    plan = make_plan(two_suites(args))
    assert plan.config['unnorm_keys'] == plan.unnorm_keys == {
        'libero_spatial': 'libero_spatial_no_noops', 'libero_object': 'libero_object'}
    assert evaluation.player_of(args, plan).unnorm_keys == plan.unnorm_keys
    with pytest.raises(ValueError, match='can be right for one of the suites'):
        make_plan(dataclasses.replace(two_suites(args), unnorm_key='libero_object'))


def test_the_same_tokens_are_other_motion_under_another_suites_statistics(args):
    """One set of weights, the drafter's too; the statistics are those of the suite at hand."""
    plan = make_plan(two_suites(args))
    policy = Policy.load(args.checkpoint, decoder='strict', unnorm_key='libero_object')
    other = policy.with_dataset('libero_spatial_no_noops')
    assert other.checkpoint.model is policy.checkpoint.model
    assert other.checkpoint.drafter_weights('eagle') is policy.checkpoint.drafter_weights('eagle')
    image = np.zeros((64, 64, 3), np.uint8)
    mine, theirs = (it.act(image, 'pick up the milk') for it in (policy, other))
    assert mine.tokens == theirs.tokens
    np.testing.assert_allclose(  # -1 … 1 and -1 … 3, in units of the data set
        theirs.values[0, :6], 2 * mine.values[0, :6] + 1, atol=1e-6)
    assert plan.unnorm_keys['libero_spatial'] == other.dataset.unnorm_key


class Scene:
    """An environment that is solved at once, and notes who acted in it."""

    max_steps, instruction = 5, 'x'

    def __init__(self, suite, task_id):
        self.suite, self.task_id = suite, task_id

    def reset(self, state):
        return SimpleNamespace(image=None)

    def step(self, delta):
        return SimpleNamespace(image=None, success=True)

    def close(self):
        pass


def test_a_player_changes_its_cast_with_the_suite(make):
    casts, acted = [], []

    def cast(suite):
        def act(image, instruction):
            acted.append(suite)
            record = make.action()
            return SimpleNamespace(tokens=record.tokens, trace=record, si=np.zeros((1, 7)),
                                   normalized=np.zeros((1, 7)))
        casts.append(suite)
        policy = SimpleNamespace(act=act, reset=lambda: None)
        return SuitePolicies({'ar': policy}, policy)

    player = TaskPlayer(Scene, cast, RolloutConfig(None, 0), first='a')
    for suite, task in (('a', 0), ('a', 1), ('b', 0), ('b', 0)):
        acted.clear()
        episode = player.do(Trial(suite, task, 0, 'ar'), lambda _: None)
        assert episode.success and set(acted) == {suite}
    assert casts == ['a', 'b']


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))


def test_of_another_set_of_decoders_only_what_differs_is_named():
    """Each has a nested configuration; a line with all of them had over 5,000 characters."""
    ar, strict, relaxed = ({'name': name, 'rule': {'name': 'bins', 'settings': {'r': r}}}
                           for name, r in (('ar', 0), ('strict', 0), ('relaxed', 9)))
    here = {'config': {'decoders': {'ar': ar, 'strict': strict}, 'workers': 2}}
    now = {'config': {'decoders': {'ar': ar, 'relaxed': relaxed}, 'workers': 1}}
    assert run_folder.differences(here, now) == (
        'config.decoders.strict (now missing), config.decoders.relaxed (now there as well), '
        'config.workers (2, now 1)')
    now['config']['decoders']['strict'] = strict | {'rule': {'name': 'bins', 'settings': {'r': 1}}}
    now['config']['threads'] = 1
    assert run_folder.differences(here, now) == (
        'config.decoders.strict.rule.settings.r (0, now 1), '
        'config.decoders.relaxed (now there as well), config.workers (2, now 1) and 1 more')
    assert run_folder.differences(now, now) == ''


@pytest.mark.parametrize('is_there', [False, True])
def test_a_refused_start_leaves_nothing_and_the_right_command_goes_through(
        args, tmp_path, is_there):
    args = dataclasses.replace(args, out=tmp_path / 'deep' / 'mine')
    if is_there:
        args.out.mkdir(parents=True)
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match='no such renderer'):
        run(args, FakePlayer(no_start='no such renderer'))
    assert files_of(tmp_path) == before
    assert run(dataclasses.replace(args, reference_every=0), FakePlayer()) == 0


def test_a_simulator_is_asked_for_only_where_there_is_something_to_play(
        args, tmp_path, monkeypatch):
    """So a run can be compared where there is no simulator; without one nothing is made."""
    def none_here(tasks):
        raise ValueError('no simulator here')

    args = dataclasses.replace(args, out=tmp_path / 'deep' / 'mine')
    monkeypatch.setattr(evaluation, 'check_simulator', none_here)
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match='no simulator here'):
        run(args)
    assert files_of(tmp_path) == before
    run(args, FakePlayer())
    assert run(args) == 0


def test_a_failed_start_leaves_its_log_and_does_not_stand_in_the_way(args, tmp_path):
    args = dataclasses.replace(args, out=tmp_path / 'mine')
    assert run(args, FakePlayer(raises=((0, 0, 'ar'),))) == 1
    assert files_of(args.out) == ['worker-0.log']
    assert run(dataclasses.replace(args, reference_every=0), FakePlayer()) == 0


@pytest.mark.parametrize('content', [
    '{"config": {"other": 1}, "checkpoint": {}, "machine": {}, "versions": {}}', '', '[]', '{"a'])
def test_a_run_json_says_nothing_where_there_is_no_episode(args, tmp_path, make, content):
    """As a start leaves it that was killed. Beside episodes it has to say which run it is."""
    plan = make_plan(dataclasses.replace(args, out=tmp_path / 'mine'))
    plan.folder.mkdir()
    (plan.folder / 'run.json').write_text(content)
    with evaluation.open_run(plan) as log:
        wanted = json.loads(json.dumps(plan.config))  # there, a tuple is a list
        assert json.loads((plan.folder / 'run.json').read_text())['config'] == {
            name: value for name, value in wanted.items() if name != 'trials'}
        log.append(make.episode())
    (plan.folder / 'run.json').write_text(content)
    with pytest.raises(ValueError, match="doesn't say which run the 1 episodes beside it are of|"
                                         'holds a run with another config.other'):
        with evaluation.open_run(plan):
            raise AssertionError('must not be reached')


def test_a_full_disk_while_recording_is_one_line(args, monkeypatch):
    def full(self, episode):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(EpisodeLog, 'append', full)
    with pytest.raises(ValueError, match='cannot write .*episodes.jsonl: No space left'):
        run(args, FakePlayer())


def test_ctrl_c_keeps_what_is_there(args, monkeypatch, capsys):
    kept = []
    original = EpisodeLog.append

    def append(self, episode):
        original(self, episode)
        kept.append(episode)
        if len(kept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(EpisodeLog, 'append', append)
    assert run(args, FakePlayer()) == 130
    assert 'interrupted: 2 of 8 episodes are kept' in capsys.readouterr().out


def test_what_is_not_the_users_fault_is_exit_code_1(args, capsys):
    assert run(args, FakePlayer(raises=((0, 0, 'ar'),))) == 1
    assert 'RuntimeError: the simulator cannot be made' in capsys.readouterr().err


def test_real_simulator_and_decoders_on_a_tiny_checkpoint(tiny_checkpoint, tmp_path, monkeypatch):
    """Three steps per decoder in LIBERO, in a real worker: auto gives the tokens of ar."""
    from specvla_ros.libero.assets import AssetError, installed_assets

    try:
        installed_assets()
    except AssetError:
        pytest.skip('the LIBERO assets are not here')
    monkeypatch.chdir(tmp_path)
    args = EvalArgs(tasks=(0,), trials=1, checkpoint=tiny_checkpoint, max_steps=3,
                    reference_every=2, threads=1, json=tmp_path / 'report.json')
    assert run(args) == 0
    report = json.loads((tmp_path / 'report.json').read_text())
    overall = {row['decoder']: row for row in report['rows'] if row['task'] is None}
    assert list(overall) == ['ar', 'auto', 'auto_relaxed']
    for row in overall.values():
        assert (row['episodes'], row['crashes'], row['actions']) == (1, 0, 3)
        assert {'preprocess', 'vision', 'prefill', 'verify', 'total'} <= set(row['stage_ms'])
    assert overall['ar']['target_passes_per_action'] == 7
    assert overall['ar']['acceptance_length'] == 1
    assert overall['auto']['tokens_equal_ar']['actions_equal'] == 3
    assert overall['auto']['max_bin_error'] == 0
    assert overall['auto_relaxed']['compared_actions'] == 2
    assert report['checkpoint']['drafter_sha256']
