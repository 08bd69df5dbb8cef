"""`specvla adapt` as a command: a bag that is too little, data that bring something, bad input."""
from dataclasses import replace
import json
from pathlib import Path
import shutil

import numpy as np
import pytest

from specvla_ros.cli import main
from specvla_ros.drafter_folders import beside
from specvla_ros.embedded import DEFAULT_CHECKPOINT
from specvla_ros.errors import SpecVLAError
from specvla_ros.policy import Policy
from specvla_ros.recordings.episode import Selection
from specvla_ros.recordings.find import open_recordings
from specvla_ros.training.adapting import adaptation, words
from specvla_ros.training.adapting.command import AdaptArgs, run
from specvla_ros.training.train_eagle import run as train_eagle
from specvla_ros.training.train_eagle import TrainEagleArgs
from test.bags.conftest import BagMaker
from test.recordings.makers import LeRobotMaker, MODULES, numbers, pictures, write_video
from test.recordings.test_others import action, report
from test.test_full_disk import files_of_at_most
from test.training.conftest import write_episode
from test.training.drafter_data import write_target

BAG = Path(__file__).parents[2] / 'data' / 'libero_object_2'


@pytest.fixture
def args(tmp_path):
    """
    24 episodes of a tiny target's, without any drafter.

    Four of them are held out: of three, one interval in four reached zero.
    """
    for seed in range(24):
        write_episode(tmp_path / 'data', seed % 2, seed, frames=30)
    return AdaptArgs(
        (tmp_path / 'data',), checkpoint=write_target(tmp_path / 'target'), out=tmp_path / 'out',
        epochs=2, measured=60)


def kept(args):
    return json.loads((args.out / 'report.json').read_text())


def content(folder):
    return {path.relative_to(folder): path.read_bytes()
            for path in sorted(folder.rglob('*')) if path.is_file()}


def test_the_shipped_bag_is_too_little_and_the_old_weights_stay(tmp_path, capsys):
    run(AdaptArgs((BAG,), out=tmp_path / 'out', epochs=3))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith('bag, 256 x 256 from /image/compressed, 1 episode, 68 frames')
    assert '68 recorded actions, 0 of them the own words' in lines[1]
    assert any(line.startswith('takes: 54 frames to learn from, about ') for line in lines)
    assert '  strict: 14 of 14 actions are the same, token by token' in lines
    assert lines[-2].startswith('The old weights stay: 54 frames to learn from and 1 stretch ')
    assert sorted(it.name for it in (tmp_path / 'out').iterdir()) == ['report.json', 'words']


def test_what_is_better_is_kept_and_acts(args, capsys):
    run(replace(args, epochs=30))
    lines = capsys.readouterr().out.splitlines()
    assert 'The new weights are better' in lines[-2], lines
    assert 'glance began with new weights: there were none' in lines
    made = kept(args)
    assert made['kept'] == ['glance'] and made['made_of']['held_out'] == 'whole episodes'
    strict, relaxed = made['comparisons']['glance']
    assert strict['same'] == strict['actions']
    assert min(strict['high'], relaxed['high']) < 0  # of few episodes one interval may be wide
    drafters = args.out / 'drafters'
    card = (drafters / 'glance' / 'README.md').read_text()
    assert '| `data` | episodes of `specvla collect` | 24 | 720 |' in card
    assert '* pick up the milk' in card
    policy = Policy.load(args.checkpoint, decoder='glance', drafter=drafters)
    exact = Policy.load(args.checkpoint, decoder='ar')
    image = np.full((64, 64, 3), 99, np.uint8)
    assert policy.act(image, 'wave').tokens == exact.act(image, 'wave').tokens
    # The next run begins with these, and the words are there.
    run(replace(args, drafter=drafters, epochs=1, out=args.out))
    lines = capsys.readouterr().out.splitlines()
    assert any('600 are there from an earlier run' in line for line in lines), lines


def test_eagle_is_taught_as_well_and_what_was_not_taught_is_taken_along(
        args, tmp_path, monkeypatch):
    present = tmp_path / 'present'
    shutil.copytree(beside(DEFAULT_CHECKPOINT) / 'eagle', present / 'other')
    monkeypatch.setattr(adaptation, 'is_kept', lambda comparisons: True)
    run(replace(args, eagle=True, drafter=present))
    found = kept(args)
    assert set(found['comparisons']) == {'glance', 'eagle'}
    assert {it.name for it in (args.out / 'drafters').iterdir()} == {'other', 'glance', 'eagle'}
    Policy.load(args.checkpoint, decoder='strict', drafter=args.out / 'drafters')


def test_a_checkpoint_that_says_chunks_gets_a_drafter_for_all_of_their_steps(args, monkeypatch):
    path = args.checkpoint / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'chunk': 2, 'execute_steps': 1}))
    monkeypatch.setattr(adaptation, 'is_kept', lambda comparisons: True)
    run(args)
    strict, _ = kept(args)['comparisons']['glance']
    assert (strict['old'], strict['new']) == ('jacobi', 'glance_jacobi')
    drafters = args.out / 'drafters'
    assert json.loads((drafters / 'glance' / 'config.json').read_text())['length'] == 14
    policy = Policy.load(args.checkpoint, decoder='glance_jacobi', drafter=drafters)
    assert len(policy.act(np.full((64, 64, 3), 99, np.uint8), 'wave').tokens) == 14


def test_worse_weights_are_not_kept_and_nothing_is_replaced(args, monkeypatch):
    monkeypatch.setattr(adaptation, 'is_kept', lambda comparisons: True)
    run(args)
    before = content(args.out / 'drafters')
    assert Path('glance/model.safetensors') in before
    monkeypatch.setattr(adaptation, 'is_kept', lambda comparisons: False)
    run(replace(args, epochs=1))
    assert content(args.out / 'drafters') == before and kept(args)['kept'] == []


def strict_bag(path, target, tokens_of):
    """A bag whose actions `tokens_of` gives, said to be the target's own."""
    maker = BagMaker(path, 'mcap')
    maker.instruct(1, 'pick up the milk')
    policy = Policy.load(target, decoder='ar')
    for number in range(20):
        stamp = 10**8 * (number + 1)
        maker.image(stamp, value=[number, 255 - number, 7 * number], size=32)
        picture = np.resize(np.array([number, 255 - number, 7 * number], np.uint8), (32, 32, 3))
        tokens = tokens_of(policy.act(picture, 'pick up the milk').tokens)
        action(maker, stamp, tokens)
        report(maker, stamp)
    maker.writer.finish()
    return path


@pytest.mark.parametrize('changed, taken', [(False, 16), (True, 0)])
def test_recorded_words_are_taken_after_a_spot_check(
        args, tmp_path, capsys, monkeypatch, changed, taken):
    def tokens_of(tokens):
        return (*tokens[:-1], tokens[-1] - 1) if changed else tokens

    bag = strict_bag(tmp_path / 'bag', args.checkpoint, tokens_of)
    decoded = []
    decode = words.Regenerator._decode
    monkeypatch.setattr(words.Regenerator, '_decode', lambda self, ids, values, offsets: (
        decoded.append(len(values)), decode(self, ids, values, offsets))[1])
    run(replace(args, source=(bag,), epochs=1))
    out = capsys.readouterr().out
    assert kept(args)['made_of']['taken_words'] == taken
    assert ('are taken: this checkpoint says the same to 16 of 16' in out) != changed
    assert ('says others to 16 of 16 frames' in out) == changed
    assert bool(sum(decoded)) == changed  # the towers alone, where they are taken
    shard, = (args.out / 'words').rglob('*.npy')
    recording, = open_recordings([bag], Selection())
    records = np.load(shard)
    own = [recording.episodes[0].said[frame] for frame in range(16)]
    assert np.array_equal(records['tokens'][:, 0], own) != changed


def test_taken_and_computed_words_teach_the_same(args, tmp_path, monkeypatch):
    bag = strict_bag(tmp_path / 'bag', args.checkpoint, lambda tokens: tokens)
    run(replace(args, source=(bag,), epochs=1))
    taken, = (args.out / 'words').rglob('*.npy')
    other = replace(args, source=(bag,), epochs=1, out=tmp_path / 'other')
    monkeypatch.setattr(adaptation.Adaptation, '_may_take', lambda self, checkpoint: False)
    run(other)
    computed, = (other.out / 'words').rglob('*.npy')
    a, b = np.load(taken), np.load(computed)
    assert np.array_equal(a['tokens'], b['tokens'])
    assert np.allclose(a['patches'].astype(np.float32), b['patches'], atol=1e-2)


def test_an_interrupted_run_goes_on(args, monkeypatch, capsys):
    records, done = words.Words.records, []

    def stopped(self, part):
        done.append(part.name)
        if len(done) == 5:
            raise KeyboardInterrupt
        return records(self, part)

    monkeypatch.setattr(words.Words, 'records', stopped)
    with pytest.raises(KeyboardInterrupt):
        run(replace(args, lanes=1))
    there = sorted((args.out / 'words').rglob('*.npy'))
    assert 0 < len(there) < 10
    times = [path.stat().st_mtime_ns for path in there]
    monkeypatch.setattr(words.Words, 'records', records)
    run(replace(args, lanes=1, epochs=1))
    assert [path.stat().st_mtime_ns for path in there] == times
    assert kept(args)['made_of']['learned_frames'] == 600


def test_frames_are_thinned_to_those_asked_for(args):
    run(replace(args, frames=100, epochs=1))
    assert kept(args)['made_of']['learned_frames'] <= 100


@pytest.mark.parametrize('option, value, message', [
    ('--frames', '0', '--frames 0: must be at least 1'),
    ('--minutes', '0', '--minutes 0: must be more than 0'),
    ('--epochs', 'nan', '--epochs nan: must be more than 0'),
    ('--checkpoint', 'nowhere', 'nowhere'),
    ('--drafter', 'nowhere', 'drafter folder nowhere does not exist'),
    ('--unnorm-key', 'bridge_orig', 'bridge_orig is none of them'),
    ('--device', 'tpu', "device is 'tpu'"),
    ('--image-topic', '/wrist', 'has no topic /wrist'),
    ('--out', 'taken', 'taken holds mine, which `specvla adapt` did not write'),
    ('--out', 'taken/mine', '--out taken/mine is there and is no folder'),
    ('--out', 'link', '--out link is there and is no folder'),
    ('--out', str(beside(DEFAULT_CHECKPOINT)), 'holds eagle, glance, which `specvla adapt` did'),
    ('--out', str(BAG / 'adapted'), 'is inside of'),
])
def test_bad_input_is_one_line_and_writes_nothing(
        tmp_path, monkeypatch, capsys, option, value, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'taken').mkdir()
    (tmp_path / 'taken' / 'mine').write_text('')
    (tmp_path / 'link').symlink_to('nowhere')
    before = sorted(tmp_path.rglob('*'))
    assert main(['adapt', str(BAG), option, value]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith('error: ') and complaint.count('\n') == 1, complaint
    assert message in complaint
    assert sorted(tmp_path.rglob('*')) == before


def test_another_robots_actions_are_refused(args, tmp_path, capsys):
    path = write_episode(tmp_path / 'six', 0, 0)
    with np.load(path, allow_pickle=True) as there:
        changed = {**there, 'action': there['action'][:, :6]}
    np.savez(path, **changed)
    assert main(['adapt', str(tmp_path / 'six'), '--checkpoint', str(args.checkpoint), '--out',
                 str(args.out)]) == 2
    assert 'actions are of 6 dimensions, those of this checkpoint of 7' in capsys.readouterr().err
    assert not args.out.exists()


def test_eagle_learns_from_no_words_that_lack_features(args):
    run(args)
    with pytest.raises(SpecVLAError, match='adapt with --eagle'):
        train_eagle(TrainEagleArgs(
            args.checkpoint, regenerated=args.out / 'words', out=args.out.with_name('eagle'),
            holdout=0.0, decode_frames=0))


def test_words_of_another_target_are_refused(args, tmp_path):
    run(replace(args, epochs=1))
    with pytest.raises(SpecVLAError, match='was made with target_sha256'):
        run(replace(args, checkpoint=write_target(tmp_path / 'other', seed=1)))


def test_a_disk_with_too_little_room_is_told_before_it_is_full(args, monkeypatch):
    monkeypatch.setattr(words.shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(9, 9, 9))
    with pytest.raises(SpecVLAError, match=r'needs .* GB, .* are free there: choose another'):
        run(args)
    assert not list(args.out.rglob('*.npy'))


def test_a_disk_that_is_full_leaves_the_drafters_as_they_were(args, monkeypatch, capsys):
    """The weights are what no longer fits, then the report, which speaks of them."""
    monkeypatch.setattr(adaptation, 'is_kept', lambda comparisons: True)
    run(args)
    before = content(args.out)
    assert Path('drafters/glance/model.safetensors') in before
    command = ['adapt', str(args.source[0]), '--checkpoint', str(args.checkpoint), '--out',
               str(args.out), '--epochs', '1', '--measured', '10']
    capsys.readouterr()
    with files_of_at_most(200_000):
        assert main(command) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith('error: cannot write ') and complaint.count('\n') == 1
    assert content(args.out) == before

    def full(*_, **__):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(shutil, 'copytree', full)
    assert main(command) == 2
    assert content(args.out) == before
    assert not (args.out / 'work').exists()


@pytest.mark.parametrize('version', ['v2.1', 'v3.0'])
def test_a_video_that_is_cut_off_is_told_before_anything_is_written(
        args, tmp_path, capsys, version):
    pytest.importorskip('av', reason=f'av: {MODULES}')
    maker = LeRobotMaker(tmp_path / 'set', version, [
        ('pick up the milk', pictures(8, first), numbers(8, 7), numbers(8, 6))
        for first in range(5)])
    write_video(sorted((maker.root / 'videos').rglob('*.mp4'))[-1], pictures(3), maker.FPS)
    assert main(['adapt', str(maker.root), '--checkpoint', str(args.checkpoint), '--out',
                 str(args.out)]) == 2
    complaint = capsys.readouterr().err
    assert 'the episode needs a frame at' in complaint and complaint.count('\n') == 1
    assert not args.out.exists()


def test_what_the_checkpoint_cannot_be_told_is_refused_before_anything_is_written(
        args, capsys):
    for told, reason in (('push ' * 5000, 'makes a prompt of'), (' \t', 'is empty')):
        assert main(['adapt', str(args.source[0]), '--checkpoint', str(args.checkpoint), '--out',
                     str(args.out), '--instruction', told]) == 2
        complaint = capsys.readouterr().err
        assert reason in complaint and complaint.count('\n') == 1
        assert not args.out.exists()


def test_a_recording_and_its_copy_are_refused(args, tmp_path, capsys):
    """What is learned from would be measured with as well."""
    shutil.copytree(args.source[0], tmp_path / 'copy')
    assert main(['adapt', str(args.source[0]), str(tmp_path / 'copy'), '--checkpoint',
                 str(args.checkpoint), '--out', str(args.out)]) == 2
    assert 'copy is a copy of' in capsys.readouterr().err and not args.out.exists()
