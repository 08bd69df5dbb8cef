"""`regenerate`: what is stored is what the deployed decoder says, feature by feature."""

from dataclasses import replace
import json
import pickle

import numpy as np
import pytest
import torch

from specvla_ros.configuration import load_preset
from specvla_ros.errors import SpecVLAError
from specvla_ros.files import alone_in
from specvla_ros.hashing import folder_sha256
from specvla_ros.loaded_checkpoint import Checkpoint
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training import regenerate
from specvla_ros.training.dataset import Dataset
from specvla_ros.training.regenerate import run
from specvla_ros.training.regenerated import Manifest, open_shards
from specvla_ros.training.shards import EpisodeToSay
from test.training.conftest import SUITE, write_episode
from test.training.drafter_data import regenerate_args, write_target


@pytest.fixture
def args(tmp_path, data):
    write_target(tmp_path / 'target')
    return regenerate_args(tmp_path, data)


def shards(args) -> dict:
    return {s.name: s for s in open_shards(args.out, folder_sha256(args.target))[1]}


def test_the_tokens_are_those_that_the_decoder_ar_says(args, data):
    assert run(args) == 0
    model = OpenVLA.from_pretrained(args.target)
    checkpoint = Checkpoint(model, SUITE)
    decoder = checkpoint.decoder(load_preset('ar'))
    dataset = Dataset(data, SUITE, model.config.image_size)
    dataset.refresh()
    found = shards(args)
    assert sorted(found) == sorted(episode.name for episode in dataset.episodes)
    said = set()
    for episode in dataset.episodes:
        prompt_ids = checkpoint.prompt_ids(episode.instruction)
        for frame, pixels in enumerate(episode.pixels):
            values = checkpoint.transform.normalise(torch.from_numpy(np.array(pixels)))[None]
            tokens, _ = decoder.decode(prompt_ids, values)
            assert found[episode.name].records[frame]['tokens'][0].tolist() == tokens
            said.add(tuple(tokens))
    assert len(said) > 20  # the target doesn't say the same to every frame


def test_a_second_one_into_the_same_folder_is_refused(args):
    with alone_in(args.out), pytest.raises(SpecVLAError, match='another process is writing to'):
        run(args)
    assert run(args) == 0 and shards(args)


@torch.no_grad()
def test_features_are_the_targets_of_prompt_and_fed_tokens(args, data):
    run(args)
    model = OpenVLA.from_pretrained(args.target)
    dataset = Dataset(data, SUITE, model.config.image_size)
    dataset.refresh()
    episode = dataset.episodes[-1]
    record = shards(args)[episode.name].records[3]
    checkpoint = Checkpoint(model, SUITE)
    values = checkpoint.transform.normalise(torch.from_numpy(np.array(episode.pixels[3])))[None]
    prompt = model.embed(checkpoint.prompt_ids(episode.instruction), values)
    patches = prompt[0, 1:1 + model.config.n_patches]
    np.testing.assert_allclose(record['patches'], patches, atol=2e-3, rtol=2e-3)
    for path, tokens in enumerate(record['tokens']):
        fed = model.embed_tokens(torch.from_numpy(tokens[:-1].astype(np.int64)))[None]
        hidden = model(torch.cat((prompt, fed), dim=1))[0]
        size = prompt.shape[1]
        np.testing.assert_allclose(record['prompt'], hidden[:size], atol=5e-3, rtol=2e-3)
        np.testing.assert_allclose(
            record['features'][path], hidden[size:], atol=5e-3, rtol=2e-3)


@torch.no_grad()
def test_the_other_paths_are_near_what_the_target_would_say_and_keep_the_gripper(args, data):
    run(args)
    model = OpenVLA.from_pretrained(args.target)
    tokenizer, checkpoint = model.action_tokenizer, Checkpoint(model, SUITE)
    action_head = model.lm_head.weight[tokenizer.first_id:tokenizer.last_id + 1]
    dataset = Dataset(data, SUITE, model.config.image_size)
    dataset.refresh()
    found, far = shards(args), 0
    for episode in dataset.episodes[::3]:
        tokens = torch.from_numpy(found[episode.name].records['tokens'].astype(np.int64))
        values = checkpoint.transform.normalise(torch.from_numpy(np.array(episode.pixels)))
        ids = checkpoint.prompt_ids(episode.instruction).expand(len(values), -1)
        prompt = model.embed(ids, values)
        for path in range(args.paths):
            fed = model.embed_tokens(tokens[:, path, :-1])
            hidden = model(torch.cat((prompt, fed), dim=1))[:, prompt.shape[1] - 1:]
            own = tokenizer.first_id + (hidden @ action_head.T).argmax(-1)
            off = (tokens[:, path] - own).abs()
            assert off.max() <= (0, 3, 6, 9)[path]
            assert (off[:, -1] == 0).all()
            far = max(far, int(off.max()))
    assert far >= 7


def test_batches_and_lanes_do_not_change_what_is_said(args, tmp_path):
    run(args)
    run(regenerate_args(tmp_path, args.data, out=tmp_path / 'other', batch=8, lanes=1))
    for name, shard in shards(args).items():
        other = np.load(tmp_path / 'other' / f'{name}.npy')
        assert np.array_equal(shard.records['tokens'], other['tokens'])


def test_an_interrupted_regeneration_is_incomplete_and_goes_on(args, monkeypatch):
    whole = regenerate.Regenerator.records
    decoded = []

    def interrupted(self, episode):
        if len(decoded) == 4:
            raise KeyboardInterrupt
        decoded.append(episode.name)
        return whole(self, episode)

    monkeypatch.setattr(regenerate.Regenerator, 'records', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(args)
    assert not Manifest.read(args.out).complete
    with pytest.raises(SpecVLAError, match='is not complete: run the same'):
        shards(args)
    decoded.clear()
    monkeypatch.setattr(regenerate.Regenerator, 'records',
                        lambda self, episode: decoded.append(episode.name) or whole(self, episode))
    there = {path.relative_to(args.out) for path in args.out.glob('task*/*.npy')}
    run(args)
    assert len(decoded) == 10 - len(there) < 10
    assert len(shards(args)) == 10
    assert not list(args.out.rglob('*.part'))


def test_of_failed_episodes_the_first_steps_are_said_too_if_asked_for(args, data):
    write_episode(data, task=0, seed=8, success=False)
    run(args)
    assert len(shards(args)) == 10
    with pytest.raises(SpecVLAError, match='made with failed_steps 0, not 3'):
        run(replace(args, failed_steps=3))
    some = replace(args, out=args.out.with_name('more'), failed_steps=3)
    run(some)
    found = shards(some)
    records = found.pop('task0/seed8').records
    model = OpenVLA.from_pretrained(args.target)
    dataset = Dataset(data, SUITE, model.config.image_size, failed_steps=3)
    dataset.refresh(only=['task0/seed8'])
    job = EpisodeToSay(dataset.episodes[0])
    again = regenerate.MakeLane(some, SUITE)().do(job, lambda news: None)
    assert len(records) == 3 and np.array_equal(records, again)
    assert found.keys() == shards(args).keys()


def test_another_target_or_setting_does_not_mix(args, tmp_path):
    run(args)
    with pytest.raises(SpecVLAError, match='made with jitter 9, not 5'):
        run(regenerate_args(tmp_path, args.data, jitter=5))
    write_target(tmp_path / 'target', seed=1)
    with pytest.raises(SpecVLAError, match='made with target_sha256'):
        run(args)
    with pytest.raises(SpecVLAError, match='holds the words of target'):
        shards(args)


@pytest.mark.parametrize('name', ['jitter', 'seed'])
def test_of_one_path_nothing_is_drawn_so_what_decides_it_is_refused_and_does_not_count(
        args, tmp_path, name):
    with pytest.raises(SpecVLAError, match=f'--{name} 5 has no effect: --paths 1 draws'):
        run(replace(args, paths=1, **{name: 5}))
    assert not args.out.exists()
    run(replace(args, paths=1))
    manifest = Manifest.read(args.out)
    replace(manifest, **{name: 5}).write(args.out)  # made when these were allowed
    run(replace(args, paths=1))
    assert replace(manifest, paths=2).difference(
        replace(manifest, paths=2, **{name: 5})) == name


def test_a_damaged_shard_or_manifest_is_named(args):
    run(args)
    (args.out / 'task0' / 'seed0.npy').write_bytes(b'nothing')
    with pytest.raises(SpecVLAError, match=r'seed0\.npy can not be read'):
        shards(args)
    (args.out / 'manifest.json').write_text(json.dumps({'suite': SUITE}))
    with pytest.raises(SpecVLAError, match='is no manifest'):
        shards(args)


@pytest.mark.parametrize(('change', 'message'), [
    ({'paths': 0}, 'paths is 0, must be at least 1'),
    ({'batch': 0}, 'batch is 0'),
    ({'failed_steps': -1}, 'failed_steps is -1, must be at least 0'),
    ({'tasks': (9,)}, 'no successful episodes under'),
])
def test_bad_settings_get_one_clear_line(args, tmp_path, change, message):
    with pytest.raises(SpecVLAError, match=message) as error:
        run(regenerate_args(tmp_path, args.data, **change))
    assert '\n' not in str(error.value)


def test_a_worker_elsewhere_says_the_same_from_what_it_is_sent(args, data):
    """As on Ray: lane and shard travel as bytes, pixels included, and no disk is shared."""
    run(args)
    model = OpenVLA.from_pretrained(args.target)
    dataset = Dataset(data, SUITE, model.config.image_size)
    dataset.refresh()
    episode = dataset.episodes[0]
    sent = pickle.dumps((regenerate.MakeLane(args, SUITE), EpisodeToSay(episode)))
    make, shard = pickle.loads(sent)
    assert len(sent) > episode.pixels.nbytes
    found = make().do(shard, lambda news: None)
    np.testing.assert_array_equal(found, shards(args)[episode.name].records)


def test_ray_that_is_not_there_is_one_line_and_leaves_nothing(args):
    with pytest.raises(SpecVLAError, match='--ray needs the Python package|--ray ray://x:1'):
        run(replace(args, ray='ray://x:1'))
    assert not args.out.exists()
