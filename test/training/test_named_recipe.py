"""Recipes of a name: what they set, what contradicts them, and what the paper's needs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from specvla_ros.benchmark.episodes.paper.drafters import drafters_section, read_drafters
from specvla_ros.drafter_verdict import DrafterVerdict
from specvla_ros.errors import SpecVLAError
from specvla_ros.training.eagle_batches import EagleBatchMaker, NONE
from specvla_ros.training.named_recipe import recipe_names, with_recipe
from specvla_ros.training.optimizer import OptimizerSettings
from specvla_ros.training.regenerate import run as regenerate
from specvla_ros.training.regenerated import open_shards, ShardFrames
from specvla_ros.training.train_eagle import run, TrainEagleArgs
from specvla_ros.training.unroll import eagle_loss, LossWeights, unroll
from test.training.drafter_data import regenerate_args, write_target


def test_a_recipe_sets_what_it_names_and_leaves_the_rest():
    args = with_recipe(TrainEagleArgs(epochs=3.0), 'paper')
    assert (args.batch, args.epochs, args.weights.depths) == (16, 3.0, 1)
    assert args.optimizer.learning_rate == 5e-5 and args.optimizer.betas == (0.9, 0.95)
    usual = TrainEagleArgs()
    assert with_recipe(usual, 'ours') == usual and usual.recipe == 'ours'
    assert recipe_names() == ['ours', 'paper']


@pytest.mark.parametrize('args, message', [
    (TrainEagleArgs(batch=32), r'--batch 32: recipe paper says 16; leave out --batch'),
    (TrainEagleArgs(optimizer=replace(TrainEagleArgs().optimizer, clip=0.7)),
     r'--optimizer.clip 0.7: recipe paper says 0.5'),
    (TrainEagleArgs(weights=LossWeights(prompt=0.0, depths=2)), r'--weights.depths 2: recipe')])
def test_an_option_that_contradicts_the_recipe_is_refused(args, message):
    with pytest.raises(SpecVLAError, match=message):
        with_recipe(args, 'paper')


def test_an_option_that_agrees_is_not_refused_and_an_unknown_recipe_is():
    assert with_recipe(TrainEagleArgs(batch=16), 'paper').batch == 16
    with pytest.raises(SpecVLAError, match='--recipe papers: must be one of ours, paper'):
        with_recipe(TrainEagleArgs(), 'papers')


@pytest.mark.parametrize('content, message', [
    ('speed: 3', r"unknown keys \['speed'\]"), ('batch: many', "batch is 'many', must be a whole"),
    ('optimizer: 3', 'optimizer is 3, must be a mapping'),
    ('optimizer: {rate: 1}', r"unknown keys \['rate'\]"),
    ('weights: {depths: 1.5}', 'weights.depths is 1.5')])
def test_a_file_that_cannot_be_a_recipe_is_refused(tmp_path, monkeypatch, content, message):
    (tmp_path / 'recipes').mkdir()
    (tmp_path / 'recipes' / 'own.yaml').write_text(content)
    monkeypatch.setattr('specvla_ros.training.named_recipe.config_folder', lambda: tmp_path)
    with pytest.raises(SpecVLAError, match=message) as error:
        with_recipe(TrainEagleArgs(), 'own')
    assert 'own.yaml' in str(error.value) and '\n' not in str(error.value)


def test_a_warm_up_in_steps_does_not_hang_on_the_length_of_the_training():
    settings = OptimizerSettings(1.0, warm_up_steps=100, decay=0.0)
    assert [settings.rate(done, steps) for done, steps in ((0.5, 0), (0.5, 50), (0.1, 100),
                                                           (0.9, 300))] == [0, 0.5, 1, 1]
    by_share = OptimizerSettings(1.0, warm_up=0.5, decay=0.0)
    assert by_share.rate(0.25, 10**6) == 0.5


@pytest.fixture
def words(tmp_path, data):
    """Say what a tiny target says."""
    target = write_target(tmp_path / 'target')
    regenerate(regenerate_args(tmp_path, data))
    return target


@pytest.fixture
def case(words, tmp_path):
    """A network and a batch of frames, and what makes others."""
    from types import SimpleNamespace

    from specvla_ros.decoding.drafters import EagleConfig, EagleHead
    from specvla_ros.hashing import folder_sha256
    from specvla_ros.openvla.model import OpenVLA

    model = OpenVLA.from_pretrained(words).requires_grad_(False)
    _, shards = open_shards(tmp_path / 'words', folder_sha256(words))
    maker, frames = EagleBatchMaker(model, torch.float32), ShardFrames(shards)

    def batch(perturbation=NONE):
        return maker(frames, np.arange(4), np.random.default_rng(0), perturbation)

    return SimpleNamespace(head=EagleHead(EagleConfig.like(model)), maker=maker, batch=batch)


@torch.no_grad()
def test_of_one_depth_no_guess_is_made_of_a_guess(case):
    batch = case.batch()
    depths, _ = unroll(case.head, batch, most=1)
    assert len(depths) == 1
    torch.testing.assert_close(depths[0], unroll(case.head, batch)[0][0])
    one, all_of_them = (float(eagle_loss(case.head, case.maker.action_head, batch, LossWeights(
        tokens=0.0, features=1.0, depths=depths)).total) for depths in (1, 0))
    expected = torch.nn.functional.smooth_l1_loss(depths[0], batch.next_features)
    assert one == pytest.approx(float(expected)) and one != pytest.approx(all_of_them)


def test_eagles_noise_hangs_on_the_rows_and_not_on_the_features(case):
    plain = case.batch().features
    noisy = case.batch(replace(NONE, noise_by_length=0.1)).features
    most = 0.1 * 512 / plain.shape[1]
    off = (noisy - plain).abs()
    assert 0.9 * most < float(off.max()) <= most * 1.0001
    assert float(off.mean()) == pytest.approx(most / 2, rel=0.1)


def test_two_recipes_are_held_against_each_other(words, data, tmp_path, capsys):
    """Both trainings leave what the decoder gained, on the same held-out frames."""
    folders = []
    for recipe in ('ours', 'paper'):
        out = tmp_path / recipe / 'eagle'
        run(TrainEagleArgs(
            target=words, out=out, regenerated=tmp_path / 'words', data=data, recipe=recipe,
            epochs=2, batch=16, holdout=0.3, evaluate=60, lanes=1,
            decode_frames=5))
        folders.append(out.with_name('eagle.training'))
    said = capsys.readouterr().out
    verdicts = read_drafters(folders)
    assert [verdict.recipe for verdict in verdicts] == ['ours', 'paper']
    episodes = verdicts[0].episodes
    assert set(episodes) == {f'{preset}{more}' for preset in ('strict', 'relaxed')
                             for more in ('', ', wide tree', ' constant')}
    assert sum(len(one.frames) for one in episodes['strict']) == 5
    counts = np.sum([one.gained for one in episodes['strict']], axis=0)
    mean = counts @ np.arange(len(counts)) / counts.sum()
    assert f'strict {mean:.2f} (constant' in said
    section = drafters_section(verdicts)
    assert [line.cells[1].main for line in section.table.lines[:3]] == [
        'ours', 'paper', 'a constant action']
    assert verdicts[1].trained['batch'] == 16
    assert DrafterVerdict.read(folders[0]) == verdicts[0]
