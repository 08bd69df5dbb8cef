"""A tiny target learns to say chunks: its folder says so, and everything reads it back."""

from dataclasses import replace
import json

import numpy as np
import pytest

from specvla_ros.configuration import load_preset
from specvla_ros.decoding.drafters import GlanceHead
from specvla_ros.errors import SpecVLAError
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.policy import Policy
from specvla_ros.policy_check import check_policy
from specvla_ros.training import train_glance
from specvla_ros.training.dataset import Dataset
from specvla_ros.training.optimizer import OptimizerSettings
from specvla_ros.training.regenerate import run as regenerate
from specvla_ros.training.target_batches import NONE
from specvla_ros.training.train_glance import TrainGlanceArgs
from specvla_ros.training.train_target import make_trainer, run, TrainTargetArgs
from specvla_ros.training.trainer import Trainer
from test.training.conftest import INSTRUCTIONS, SUITE, TINY, write_episode
from test.training.drafter_data import regenerate_args

CHUNK = 3


@pytest.fixture
def data(tmp_path):
    """Ten episodes in which all was executed as the expert said."""
    for task in (0, 1):
        for seed in range(5):
            path = write_episode(tmp_path / 'data', task, seed)
            with np.load(path, allow_pickle=True) as file:
                content = dict(file)
            content |= dict(executed=content['action'], clean=np.ones(8, bool))
            np.savez(path, **content)
    return tmp_path / 'data'


@pytest.fixture
def args(data, tmp_path):
    return TrainTargetArgs(
        out=tmp_path / 'target', suite=SUITE, data=data, chunk=CHUNK, epochs=20, batch=16,
        dtype='float32', store='bfloat16', holdout=0.0, text_tokens=300, shape=TINY, evaluate=60,
        optimizer=OptimizerSettings(learning_rate=3e-3), augmentation=NONE)


def frame(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def test_it_learns_says_its_chunk_and_a_glance_guesses_all_of_it(args, data, tmp_path, capsys):
    losses, step = [], Trainer.step

    def watched(self, done):
        found = step(self, done)
        losses.append(float(found[0].tokens))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, 'step', watched)
        run(args)
    numbers = sum(p.numel() for p in OpenVLA.from_pretrained(args.out).parameters())
    assert (args.out / 'model.safetensors').stat().st_size < 2.2 * numbers + 20_000  # bfloat16
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    content = json.loads((args.out / 'config.json').read_text())
    assert (content['chunk'], content['execute_steps']) == (CHUNK, 2)

    policy = Policy.load(args.out, decoder='ar', device='cpu')
    assert policy.action_length == 7 * CHUNK
    action = policy.act(frame(), INSTRUCTIONS[0])
    assert action.si.shape == (CHUNK, 7) and action.trace.target_passes == 7 * CHUNK

    regenerate(regenerate_args(tmp_path, data, paths=1))
    train_glance.run(TrainGlanceArgs(
        target=args.out, store='bfloat16', regenerated=tmp_path / 'words', data=data, epochs=8,
        batch=16, rank=4, width=32, holdout=0.3, evaluate=60, decode_frames=3))
    assert 'glance_jacobi' in capsys.readouterr().out.splitlines()[-1]
    head = GlanceHead.from_pretrained(args.out / 'drafters' / 'glance',
                                      OpenVLA.from_pretrained(args.out))
    assert head.config.length == 7 * CHUNK
    fast = policy.with_decoder('glance_jacobi').act(frame(), INSTRUCTIONS[0])
    assert fast.tokens == action.tokens and fast.trace.target_passes < 7 * CHUNK


def test_labels_of_a_batch_are_the_steps_one_after_the_other(args, data):
    training = make_trainer(args).recipe
    frames = training.frames
    index = np.arange(0, len(frames), 5)
    batch = training.maker(frames, index, np.random.default_rng(0), NONE)
    assert batch.labels.shape == (len(index), 1, 7 * CHUNK)
    values = training.statistics.unnormalize(
        training.maker.tokenizer.decode(batch.labels.numpy()).reshape(-1, CHUNK, 7))
    wanted = []
    for episode, step in map(frames.locate, index):
        with np.load(data / SUITE / f'{episode.name}.npz', allow_pickle=True) as file:
            wanted.append(file['executed'][step:step + CHUNK])
    low, high = training.statistics.q01[:2], training.statistics.q99[:2]
    np.testing.assert_allclose(
        values[..., :2], np.array(wanted)[..., :2].clip(low, high), atol=0.01)
    np.testing.assert_array_equal(values[..., 6] > 0.5, np.array(wanted)[..., 6] > 0.5)
    moved = training.maker(frames, index, np.random.default_rng(0), replace(NONE, jitter=5))
    moves = moved.input_ids - batch.input_ids
    off = moves[:, -(7 * CHUNK - 1):]
    for row, answer in zip(moves, batch.prompt_ends[:, 0], strict=True):
        said = row[answer + 1:answer + 7 * CHUNK]
        assert not said[6::7].any()  # the grippers' stay exact, of every step
    assert off.any()


def test_of_a_failed_episode_the_first_steps_teach_chunks_too(data):
    path = data / SUITE / 'task0' / 'seed2.npz'
    with np.load(path, allow_pickle=True) as file:
        content = dict(file)
    np.savez(path, **content | {'success': False})
    for steps, frames in ((0, 0), (4, 4), (100, 8 - CHUNK + 1)):
        dataset = Dataset(data, SUITE, 32, chunk=CHUNK, failed_steps=steps)
        dataset.refresh()
        kept = [episode for episode in dataset.episodes if episode.name == 'task0/seed2']
        assert sum(map(len, kept)) == frames
        for episode in kept:
            wanted = [content['executed'][step:step + CHUNK] for step in range(frames)]
            np.testing.assert_array_equal(episode.labels, wanted)


def test_one_step_is_said_as_such_and_what_was_asked_wrongly_is_one_line(args, tmp_path):
    run(replace(args, chunk=1, epochs=1))
    content = json.loads((args.out / 'config.json').read_text())
    assert (content['chunk'], content['execute_steps']) == (1, 1)
    for wrong, message in (
            (dict(chunk=0), '--chunk 0: give 1 to 64'), (dict(chunk=65), '--chunk 65: give'),
            (dict(execute_steps=4), '--execute-steps 4: give 1 to 3')):
        with pytest.raises(SpecVLAError, match=message):
            run(replace(args, out=tmp_path / 'other', **wrong))
    assert not (tmp_path / 'other').exists()


def test_a_resumed_training_keeps_its_chunk(args):
    args = replace(args, epochs=1)
    run(args)
    with pytest.raises(SpecVLAError, match='--resume with chunk 2, but .* began with 3'):
        run(replace(args, chunk=2, resume=True))


def test_another_chunk_than_the_folders_is_refused_before_the_weights_are_read(args):
    run(replace(args, epochs=1))
    message = r'chunk is 2, but this checkpoint says actions of 3 control steps .*leave chunk out'
    with pytest.raises(SpecVLAError, match=message):
        Policy.load(args.out, decoder='ar', chunk=2)
    (args.out / 'model.safetensors').unlink()
    with pytest.raises(SpecVLAError, match=message):
        check_policy(args.out, args.out / 'drafters', [load_preset('ar')], chunk=2)
