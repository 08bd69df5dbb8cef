"""`train retrieval`: a database from episodes or from a bag, and what it is good for."""

from dataclasses import replace
import json
from pathlib import Path

import pytest

from specvla_ros.bags.frames import FrameReader
from specvla_ros.bags.reader import Bag
from specvla_ros.cli import main
from specvla_ros.configuration import load_preset
from specvla_ros.embedded import DEFAULT_CHECKPOINT
from specvla_ros.errors import SpecVLAError
from specvla_ros.policy import Policy
from specvla_ros.training.regenerate import run as regenerate
from specvla_ros.training.train_retrieval import run, TrainRetrievalArgs
from test.recordings.test_others import bag
from test.training.drafter_data import regenerate_args, write_target

BAG = Path(__file__).parents[1] / 'data' / 'libero_object_2'


@pytest.fixture
def args(tmp_path, data):
    target = write_target(tmp_path / 'target')
    regenerate(regenerate_args(tmp_path, data))
    return TrainRetrievalArgs(
        target=target, drafter=tmp_path / 'drafters', regenerated=tmp_path / 'words', rank=4,
        size=6)


def card(args):
    return json.loads((args.drafter / 'retrieval' / 'training.json').read_text())


def test_episodes_become_a_database_that_says_of_what_it_was_made(args, tmp_path):
    run(args)
    made = card(args)
    assert made['frames'] >= made['entries'] > 0 and len(made['target_sha256']) == 64
    few = replace(args, entries=5, drafter=tmp_path / 'few')
    run(few)
    assert card(few)['entries'] <= 5 < made['entries']


def test_another_checkpoint_than_that_of_the_words_is_refused(args, tmp_path):
    other = replace(args, target=write_target(tmp_path / 'other', seed=1))
    with pytest.raises(ValueError, match='holds the words of target'):
        run(other)
    assert not (args.drafter / 'retrieval').exists()


@pytest.mark.parametrize(('option', 'value'), [
    ('--entries', '0'), ('--rank', '0'), ('--size', '4096'), ('--target', 'nowhere'),
    ('--bags', 'nowhere')])
def test_bad_input_is_one_line_and_leaves_nothing(option, value, args, capsys):
    arguments = {'--target': str(args.target), '--regenerated': str(args.regenerated),
                 '--drafter': str(args.drafter), '--rank': '4', option: value}
    assert main(['train', 'retrieval', *sum(arguments.items(), ())]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith('error: ') and complaint.count('\n') == 1
    assert not (args.drafter / 'retrieval').exists()


def test_bags_that_adapt_refuses_are_refused_here_too(args, tmp_path):
    of_bags = replace(args, regenerated=None, bags=(BAG, BAG))
    with pytest.raises(SpecVLAError, match='is given twice'):
        run(of_bags)
    with pytest.raises(SpecVLAError, match="--instruction ' ' is empty"):
        run(replace(of_bags, bags=(BAG,), instruction=' '))

    def changes(maker):
        maker.instruct(1, 'push')
        maker.image(2)
        maker.image(3, size=8)

    with pytest.raises(SpecVLAError, match='changes its size from 16 x 16 to 8 x 8'):
        run(replace(of_bags, bags=(bag(tmp_path / 'bag', changes),)))
    assert not (args.drafter / 'retrieval').exists()


def test_of_a_bag_the_policy_guesses_right_when_it_sees_its_frames_again(tmp_path):
    run(TrainRetrievalArgs(target=DEFAULT_CHECKPOINT, bags=(BAG,), drafter=tmp_path))
    config = load_preset('retrieval')
    settings = {**config.drafter.settings, 'retrieval': {'neighbours': 1}}
    drafter = replace(config.drafter, settings=settings)
    policy = Policy.load(decoder=replace(config, drafter=drafter), drafter=tmp_path)
    with Bag(BAG) as bag:
        frames = [frame for frame in FrameReader(bag, '/image/compressed', '/instruction')
                  if frame.number < 12]
    actions = [policy.act(frame.image, frame.instruction) for frame in frames]
    # Each frame is in the database, so its whole action is guessed: one pass, the prefill.
    assert [action.trace.target_passes for action in actions] == [1] * 12
