"""Still frames labelled for several tasks: one picture, several instructions behind it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from specvla_ros.errors import SpecVLAError
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training.dataset import Frames, NO_OTHERS
from specvla_ros.training.optimizer import OptimizerSettings
from specvla_ros.training.target_batches import NONE
from specvla_ros.training.target_loss import (
    action_hidden,
    own_mask,
    own_positions,
    target_loss,
    vision_loss,
)
from specvla_ros.training.train_target import make_trainer, run, TrainTargetArgs
from test.training.conftest import SUITE, TINY, write_episode

OTHERS = ('turn on the stove', 'go the other way round the milk')


@pytest.fixture
def data(tmp_path):
    """Three episodes, each with as many still frames; two of the three are labelled for others."""
    folder = tmp_path / 'data'
    for seed in range(3):
        path = write_episode(folder, 0, seed)
        add_stills(path, OTHERS if seed else ())
    return folder


def add_stills(path, others, **changed):
    """Show the frames once more as stills; the second other task goes the opposite way."""
    with np.load(path, allow_pickle=True) as file:
        content = dict(file)
    own = {name: content[name] for name in ('jpeg', 'action', 'state')}
    away = own['action'] * [-1, -1, 1, 1, 1, 1, 1]
    content |= {f'still_{name}': value for name, value in own.items()}
    if others:
        content |= dict(
            other_instruction=np.array(others),
            other_action=np.stack((own['action'] * 0.5, away), axis=1).astype(np.float32),
            other_state=np.stack((own['state'] * 0.5, -own['state']), axis=1))
    np.savez(path, **content | changed)


@pytest.fixture
def args(data, tmp_path):
    return TrainTargetArgs(
        out=tmp_path / 'target', suite=SUITE, data=data, epochs=2, batch=16, lanes=2,
        dtype='float32', holdout=0.0, text_tokens=300, shape=TINY, evaluate=60,
        optimizer=OptimizerSettings(learning_rate=3e-3), augmentation=NONE)


def stills_of(recipe):
    return [index for index in range(len(recipe.frames))
            if recipe.frames.locate(index)[0].others is not NO_OTHERS]


def alone(episode, number):
    """Return an episode as if one of its other instructions were its own."""
    others = episode.others
    return replace(episode, instruction=others.instructions[number], others=NO_OTHERS,
                   action=others.action[:, number], state=others.state[:, number])


def test_each_instruction_is_answered_as_if_it_were_alone(args):
    recipe = make_trainer(args).recipe
    model = recipe.model.eval()
    chosen = np.array(stills_of(recipe)[3:9])
    assert len({recipe.frames.locate(index)[0].name for index in chosen}) == 2
    random = np.random.default_rng(0)
    batch = recipe.maker(recipe.frames, chosen, random, NONE, instructions=3)
    assert batch.task.shape == (6, 3) and batch.n_labels == 18
    # The others come in a new order for each frame.
    assert len({tuple(row) for row in batch.task.tolist()}) == 2
    with torch.no_grad():
        together = action_hidden(model, batch)[1]
    names = {number: text for text, number in recipe.maker._numbers.items()}
    for row, index in enumerate(chosen):
        episode, frame = recipe.frames.locate(index)
        for place, task in enumerate(batch.task[row].tolist()):
            its = episode if names[task] == episode.instruction else alone(
                episode, episode.others.instructions.index(names[task]))
            single = recipe.maker(Frames.of([its]), np.array([frame]), random, NONE)
            assert torch.equal(single.labels[0, 0], batch.labels[row, place])
            torch.testing.assert_close(single.state[0, 0], batch.state[row, place])
            with torch.no_grad():
                hidden = action_hidden(model, single)[1]
            torch.testing.assert_close(together[row, place], hidden[0, 0], atol=1e-5, rtol=1e-4)


def test_a_prompt_sees_the_picture_and_itself_at_its_usual_positions():
    owner = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 0], [0, 0, 0, 1, 1, 1, 1, 2, 2]])
    assert own_positions(owner).tolist() == [
        [0, 1, 2, 3, 4, 3, 4, 5, 8], [0, 1, 2, 3, 4, 5, 6, 3, 4]]
    seen = own_mask(owner, torch.float32)[0, 0] == 0
    assert [row.nonzero().flatten().tolist() for row in seen[[2, 4, 6]]] == [
        [0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2, 5, 6]]


@pytest.mark.parametrize('vision_only', [False, True])
def test_the_loss_is_the_mean_over_all_labels(args, vision_only):
    recipe = make_trainer(args).recipe
    recipe.model.eval()
    torch.nn.init.normal_(recipe.network.heads.patches.weight)
    recipe.args = replace(args, instructions_per_frame=3, vision_only=vision_only)
    frames = recipe.frames
    stills = np.array([0, 9, *stills_of(recipe)[6:10]])  # two frames that have but their own label
    sigma = recipe.widths.at(0.5, 7, 1)
    with torch.no_grad():
        found = recipe.loss(recipe.network, stills, np.random.default_rng(1), 0.5)
        each = []
        for index in stills:
            episode, frame = frames.locate(index)
            for its in (episode, *(alone(episode, n) for n in range(
                    len(episode.others.instructions)))):
                single = recipe.maker(Frames.of([its]), np.array([frame]),
                                      np.random.default_rng(0), NONE)
                network = recipe.model, recipe.network.heads, single
                each.append(vision_loss(*network) if vision_only else
                            target_loss(*network, sigma, args.state_weight))
    assert len(each) == 2 + 4 * 3
    for name in ('total', 'tokens', 'state'):
        wanted = torch.stack([getattr(loss, name) for loss in each]).mean()
        torch.testing.assert_close(getattr(found, name), wanted, atol=1e-5, rtol=1e-5)


def test_a_frame_is_shown_with_no_more_instructions_than_asked_for(args):
    recipe = make_trainer(args).recipe
    some = np.array([0, *stills_of(recipe)[:5]])
    for most, wanted in ((1, [(1, 6)]), (2, [(1, 1), (2, 5)]), (9, [(1, 1), (3, 5)])):
        recipe.args = replace(args, instructions_per_frame=most)
        assert [(count, len(its)) for count, its in recipe._alike(some)] == wanted
    with pytest.raises(SpecVLAError, match='--instructions-per-frame 0: give 1 to 64'):
        run(replace(args, instructions_per_frame=0))


def test_what_only_stills_ask_for_is_learned(args):
    """No episode is played for the other instructions, and yet the target answers them."""
    args = replace(args, epochs=90)
    recipe = make_trainer(args).recipe
    assert set(OTHERS) < set(recipe.instructions)
    run(args)
    model = OpenVLA.from_pretrained(args.out)
    maker, frames = recipe.maker, recipe.frames
    episode = frames.locate(stills_of(recipe)[0])[0]
    tokenizer, right = model.action_tokenizer, []
    for its in (episode, alone(episode, 1)):
        batch = maker(Frames.of([its]), np.arange(8), np.random.default_rng(0), NONE)
        with torch.no_grad():
            said = model.logits(action_hidden(model, batch)[1])[:, 0, 0].argmax(-1)
        x = its.action[:, 0]
        clear = np.abs(x) > 0.3
        assert clear.sum() >= 3
        right.append(np.sign(tokenizer.decode(said.numpy()))[clear] == np.sign(x[clear]))
    assert np.concatenate(right).mean() >= 0.8


def test_a_training_of_some_tasks_sees_no_label_of_another(args):
    recipe = make_trainer(replace(args, tasks=(0,))).recipe
    assert len(recipe.frames) == 48 and not stills_of(recipe)
    assert not set(OTHERS) & set(recipe.instructions)


@pytest.mark.parametrize(('change', 'reason'), [
    ({'other_instruction': np.array(['one task'])}, '1 other instructions ask for is .8, 2, 7'),
    ({'other_instruction': np.array(['one', ' '])}, 'must be a list of texts'),
    ({'other_instruction': np.array([1, 2])}, 'must be a list of texts'),
    ({'other_instruction': np.array(OTHERS[0])}, 'must be a list of texts'),
    ({'other_action': np.full((8, 2, 7), np.nan)}, 'must be .8, 2, 7. finite numbers'),
    ({'other_state': np.zeros((8, 2, 3))}, 'is .8, 2, 3., must be .8, 2, 4. finite numbers'),
    ({'other_state': np.zeros((7, 2, 4))}, 'is .7, 2, 4., must be .8, 2, 4. finite numbers'),
])
def test_labels_that_do_not_fit_the_frames_are_refused(args, data, change, reason):
    add_stills(data / SUITE / 'task0' / 'seed1.npz', OTHERS, **change)
    with pytest.raises(SpecVLAError, match=f'seed1.npz is no episode .*{reason}'):
        make_trainer(args)
