"""`specvla calibrate` on a tiny random checkpoint: what it refuses, keeps, writes and counts."""
import json
from pathlib import Path
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from specvla_ros import cli
from specvla_ros.bags import frames as bag_frames
from specvla_ros.bags.writer import BagWriter, offered_qos
from specvla_ros.benchmark.calibration.command import CalibrateArgs, run
from specvla_ros.configuration import load_preset
from specvla_ros.policy import Policy

FREE = {'mm': 1000.0, 'deg': 360.0, 'gripper': 1.0}  # a promise that is always kept
NONE = {'mm': 0.0, 'deg': 0.0, 'gripper': 0.0}  # and one that only the target's own word keeps
INSTRUCTION = 'pick up the milk and place it in the basket'


class World:
    """Made-up episodes of three steps; the picture depends on task, seed and step."""

    instruction, max_steps = INSTRUCTION, 3
    played: list = []
    stop_after = None

    def __init__(self, suite, task):
        self.task = task

    def reset_random(self, seed):
        if World.stop_after is not None and len(World.played) >= World.stop_after:
            raise KeyboardInterrupt
        self.seed, self.step_number = seed, 0
        World.played.append((self.task, seed))
        return self._observe()

    def step(self, action):
        assert action.shape == (7,)
        self.step_number += 1
        return self._observe()

    def _observe(self):
        random = np.random.default_rng((self.task, self.seed, self.step_number))
        image = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        return SimpleNamespace(image=image, success=False)

    def close(self):
        pass


@pytest.fixture
def base(tmp_path):
    """Drafts without weights, and thresholds under which nearly everything may stay."""
    path = tmp_path / 'wide.yaml'
    path.write_text('drafter: {name: velocity+history}\n'
                    'rule: {name: tolerance, mm: 60, deg: 200, gripper: 0}\n')
    return path


@pytest.fixture
def calibrate(tiny_checkpoint, tmp_path, base, monkeypatch):
    """Give a function that calibrates in a folder of its own; it returns code and report."""
    monkeypatch.setattr(World, 'played', [])
    monkeypatch.setattr(World, 'stop_after', None)

    def calibrate(**given):
        given = {'checkpoint': tiny_checkpoint, 'decoder': str(base),
                 'delta': 0.2, 'confidence': 0.0, 'scales': (0.0, 0.5, 1.0),
                 'out': tmp_path / 'run', 'json': tmp_path / 'it.json', **FREE, **given}
        if 'bag' not in given:
            given = {'tasks': (0, 3), 'episodes': 6, **given}
        code = run(CalibrateArgs(**given), World)
        path = tmp_path / 'it.json'
        return code, json.loads(path.read_text()) if path.exists() else None
    return calibrate


def test_the_loosest_scale_that_keeps_the_promise_becomes_a_preset(calibrate, tmp_path):
    code, report = calibrate()
    assert code == 0 and report['chosen']['scale'] == 1.0
    assert [row['scale'] for row in report['rows']] == [0.0, 0.5, 1.0]
    assert {row['episodes'] for row in report['rows']} == {6}
    assert {row['actions'] for row in report['rows']} == {18}
    exact, _, wide = report['rows']
    assert exact['max_error_mm'] == 0.0 and wide['max_error_mm'] > 5
    assert wide['target_passes_per_action'] < exact['target_passes_per_action']
    written = load_preset(tmp_path / 'run' / 'calibrated.yaml')
    assert written.rule.settings == {'mm': 60.0, 'deg': 200.0, 'gripper': 0.0}
    assert written.drafter == load_preset(tmp_path / 'wide.yaml').drafter


def test_a_tight_promise_leaves_exact_acceptance(calibrate, tmp_path):
    _, report = calibrate(**NONE)
    assert report['chosen']['scale'] == 0.0
    assert [row['holds'] for row in report['rows']] == [True, False, False]
    assert load_preset(tmp_path / 'run' / 'calibrated.yaml').rule.settings['mm'] == 0.0


def test_a_promise_no_scale_keeps_is_refused_and_what_was_measured_is_kept(calibrate, tmp_path):
    with pytest.raises(ValueError, match='no scale keeps the promise: at scale 0.5, the tightest'):
        calibrate(**NONE, scales=(0.5, 1.0))
    assert not (tmp_path / 'run' / 'calibrated.yaml').exists()
    assert len((tmp_path / 'run' / 'episodes.jsonl').read_text().splitlines()) == 6


def test_the_preset_says_what_was_promised_and_on_what(calibrate, tmp_path):
    calibrate()
    head = ' '.join(line.removeprefix('# ') for line in (
        tmp_path / 'run' / 'calibrated.yaml').read_text().splitlines() if line.startswith('#'))
    for said in ('In at least 80 % of the episodes', '1000 mm, 360 degrees', '6 episodes',
                 '18 frames', 'driven under scale 1', 'random starts', 'target ', 'sha256'):
        assert said in head


def test_starts_are_no_stored_states_and_none_of_the_training_seeds(calibrate):
    calibrate()
    assert sorted(World.played) == [(task, 2_000_000 + turn) for task in (0, 3)
                                    for turn in range(3)]


def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(calibrate, tmp_path):
    _, whole = calibrate()
    shutil.rmtree(tmp_path / 'run')
    World.played, World.stop_after = [], 4
    assert calibrate()[0] == 130
    assert not (tmp_path / 'run' / 'calibrated.yaml').exists()
    World.stop_after = None
    _, again = calibrate()
    assert len(World.played) == 6 and len(set(World.played)) == 6
    assert again['rows'] == whole['rows']


def test_another_promise_measures_nothing_anew(calibrate):
    calibrate()
    before = list(World.played)
    _, report = calibrate(**NONE, delta=0.3)
    assert World.played == before and report['chosen']['scale'] == 0.0
    calibrate(episodes=8)
    assert len(World.played) == 8


def test_other_scales_are_another_run(calibrate):
    calibrate()
    with pytest.raises(ValueError, match='another config.scales'):
        calibrate(scales=(0.0, 1.0))


def test_check_counts_what_the_half_kept_aside_loses(calibrate, tmp_path):
    _, report = calibrate(episodes=10, check=True)
    check = report['check']
    assert len(check['splits']) == 20 == check['splits_kept']
    assert all(split['aside'] == 5 and split['violations'] == 0 and split['interval'][0] < 1e-9
               for split in check['splits'])
    assert not (tmp_path / 'run' / 'calibrated.yaml').exists()


@pytest.mark.parametrize('options, said', [
    (['--delta', '0.01'], "100 episodes can't carry --delta 0.01 with --confidence 0.99: it takes "
     'at least 459; 100 carry --delta 0.0451 or more; with --confidence 0 it takes 99'),
    (['--episodes', '8', '--confidence', '0'], "8 episodes can't carry --delta 0.1 with "
     '--confidence 0: it takes at least 9; 8 carry --delta 0.1112 or more'),
    (['--episodes', '60', '--check'], 'it takes at least 88'),
    (['--delta', '0'], '--delta 0: give a share above 0'),
    (['--confidence', '1'], '--confidence 1: give a share from 0 to below 1'),
    (['--mm', 'nan'], '--mm nan: give a number of at least 0'),
    (['--gripper', '2'], '--gripper 2: give a number of at least 0, at most 1'),
    (['--scales', '1', '0.5'], '--scales 1 0.5: give numbers of at least 0, rising'),
    (['--drive', '0.7'], '--drive 0.7: must be 0 or one of --scales'),
    (['--splits', '5'], '--splits 5: give 20 or more'),
    (['--seed', '-1'], '--seed -1: give 0 to 2147483648'),
    (['--seed', '4294967296'], '--seed 4294967296: give 0 to'),
    (['--preset', 'it.json'], '--preset it.json: give the name of a .yaml file'),
    (['--preset', '[it].yaml'], 'rename the file: a letter or digit first'),
    (['--decoder', 'dynamic'], 'its rule is dynamic, must be one of tolerance, bins'),
])
def test_what_cannot_be_is_refused_before_anything(
        options, said, tiny_checkpoint, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert cli.main(['calibrate', '--checkpoint', str(tiny_checkpoint), *options]) == 2
    line, = capfd.readouterr().err.splitlines()
    assert line.startswith('error: ') and said in line
    assert not list(tmp_path.iterdir())


def test_real_episodes_of_the_embedded_model(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert cli.main(['calibrate', '--episodes', '2', '--delta', '0.5', '--confidence', '0',
                     '--tasks', '0', '--max-steps', '2', '--scales', '0', '1']) == 0
    preset, = tmp_path.glob('runs/calibrate-*/calibrated.yaml')
    assert str(preset.relative_to(tmp_path)) in ''.join(capfd.readouterr().out.split())
    assert set(load_preset(preset).calibrated) == {'data_set', 'target', 'glance'}


# --- bags of one's own robot

def make_bag(path, segments, frames=3):
    writer = BagWriter(path)
    topics = {'/image': bag_frames.IMAGE, '/instruction': bag_frames.STRING}
    for topic, kind in topics.items():
        writer.add_topic(topic, kind, [offered_qos(latched=topic == '/instruction')])

    def send(topic, received, **fields):
        message = writer.types.make(topics[topic], **fields)
        writer.write(topic, received, writer.types.serialize(message))

    random, now = np.random.default_rng(segments), 10**9
    for segment in range(segments):
        send('/instruction', now, data=('pick up the milk', 'place it')[segment % 2])
        for _ in range(frames):
            now += 5 * 10**7
            stamp = writer.types.make('builtin_interfaces/msg/Time', sec=now // 10**9,
                                      nanosec=now % 10**9)
            send('/image', now, height=16, width=16, encoding='rgb8', is_bigendian=0, step=48,
                 header=writer.types.make('std_msgs/msg/Header', stamp=stamp, frame_id=''),
                 data=random.integers(0, 256, 768, dtype=np.uint8))
        now += 10**6
    writer.finish()
    return path


def test_each_part_of_a_bag_counts_as_an_episode(calibrate, tmp_path):
    bags = make_bag(tmp_path / 'a', 3), make_bag(tmp_path / 'b', 2)
    code, report = calibrate(bag=bags)
    assert code == 0 and World.played == []
    assert {(row['episodes'], row['actions']) for row in report['rows']} == {(5, 15)}
    assert '2 recorded bags' in (tmp_path / 'run' / 'calibrated.yaml').read_text()


def test_bags_with_too_few_parts_are_refused_before_any_is_decoded(calibrate, tmp_path):
    with pytest.raises(ValueError, match="3 episodes can't carry --delta 0.2 .* at least 4"):
        calibrate(bag=(make_bag(tmp_path / 'a', 3),))
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('given, said', [
    ({'suite': 'libero_goal'}, '--suite libero_goal'), ({'tasks': (1, 2)}, '--tasks 1 2'),
    ({'episodes': 200}, '--episodes 200'), ({'max_steps': 9}, '--max-steps 9'),
    ({'drive': 0.0}, '--drive 0'), ({'workers': 2}, '--workers 2'),
    ({'ray': 'auto'}, '--ray auto'),
])
def test_what_only_libero_knows_is_refused_beside_bags(calibrate, tmp_path, given, said):
    with pytest.raises(ValueError, match=f'{said} has no effect: LIBERO is not played with --bag'):
        calibrate(bag=(tmp_path / 'a',), **given)


def test_a_seed_of_which_nothing_is_drawn_is_refused(calibrate, tmp_path):
    bags = make_bag(tmp_path / 'a', 2),
    with pytest.raises(ValueError, match='--seed 3 has no effect: with --bag only --check draws'):
        calibrate(bag=bags, seed=3)
    with pytest.raises(ValueError, match='2 episodes, of which --check calibrates on half'):
        calibrate(bag=bags, seed=3, check=True)  # the splits are drawn


@pytest.mark.parametrize('given, said', [
    ({'image_topic': '/eye'}, '--image-topic /eye has no effect: it is about --bag'),
    ({'instruction': 'pick up'}, '--instruction pick up has no effect'),
    ({'instruction_topic': '/told'}, '--instruction-topic /told has no effect'),
    ({'splits': 30}, '--splits 30 has no effect: it is about --check'),
    ({'check': True, 'preset': Path('x.yaml')}, '--preset x.yaml has no effect: --check writes'),
])
def test_what_plays_no_part_is_refused(calibrate, given, said):
    with pytest.raises(ValueError, match=said):
        calibrate(**given)


def test_the_same_recording_twice_is_no_more_than_once(calibrate, tmp_path):
    bag = make_bag(tmp_path / 'a', 3)
    with pytest.raises(ValueError, match='the same recording is given twice'):
        calibrate(bag=(bag, shutil.copytree(bag, tmp_path / 'b')))


# --- what a written preset holds for

@pytest.fixture
def written(calibrate, tmp_path):
    calibrate(preset=tmp_path / 'mine.yaml')
    return tmp_path / 'mine.yaml'


def test_a_written_preset_acts_on_its_own_checkpoint(written, tiny_checkpoint):
    image = np.zeros((32, 32, 3), np.uint8)
    policy = Policy.load(tiny_checkpoint, decoder=written)
    assert policy.act(image, INSTRUCTION).si.shape == (1, 7)
    assert Policy.load(tiny_checkpoint, decoder='ar').with_decoder(written).decoder_config.name \
        == 'mine'


def other(tiny_checkpoint, tmp_path) -> Path:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / 'other')
    content = json.loads((folder / 'config.json').read_text())
    content['norm_stats']['libero_object']['action']['q99'][0] = 2.0
    (folder / 'config.json').write_text(json.dumps(content))
    return folder


def test_on_another_checkpoint_it_is_refused(written, tiny_checkpoint, tmp_path, capfd):
    folder, said = other(tiny_checkpoint, tmp_path), 'mine was calibrated for another target'
    with pytest.raises(ValueError, match=said):
        Policy.load(folder, decoder=written)
    with pytest.raises(ValueError, match=said):
        Policy.load(folder, decoder='ar').with_decoder(written)
    example = Path(__file__).parents[2] / 'data' / 'libero_object_2'
    assert cli.main(['replay', str(example), '--checkpoint', str(folder), '--decoder',
                     str(written)]) == 2
    assert said in capfd.readouterr().err


def test_without_its_entry_it_is_an_ordinary_preset(written, tiny_checkpoint, tmp_path):
    content = yaml.safe_load(written.read_text())
    del content['calibrated']
    written.write_text(yaml.safe_dump(content))
    assert Policy.load(other(tiny_checkpoint, tmp_path), decoder=written)


@pytest.mark.parametrize('entry', ['yes', '[a]', '{glance: abc}', '{target: 7}'])
def test_an_entry_of_another_form_is_refused(written, entry):
    written.write_text(written.read_text().partition('calibrated:')[0] + f'calibrated: {entry}\n')
    with pytest.raises(ValueError, match='mine.yaml: calibrated is .* must be a mapping'):
        load_preset(written)
