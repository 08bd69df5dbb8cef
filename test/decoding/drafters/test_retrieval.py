"""Guesses from memory: what is near, what is stored and refused, and that strict is ar."""

from dataclasses import replace
import json

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
import torch

from specvla_ros.decoding.drafters import DraftContext, DRAFTERS, Jacobi, RelayDrafter, Retrieval
from specvla_ros.decoding.drafters.action_memory import (
    ActionMemory,
    Descriptor,
    fingerprint,
    MemoryShape,
)
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.decoding.target import Target
from specvla_ros.errors import SpecVLAError
from specvla_ros.situation import Situation, UNKNOWN
from specvla_ros.training.train_retrieval import fitted, Seen


def scenes(it, count, near=0.02):
    """Contexts of different images, and of the same ones a little changed."""
    target, found = Target(it.model), []
    for number in range(count):
        ids, pixels = it.prompt
        generator = torch.Generator().manual_seed(number)
        pixels = torch.randn(pixels.shape, generator=generator, dtype=pixels.dtype)
        off = near * torch.randn(pixels.shape, generator=generator, dtype=pixels.dtype)
        with torch.inference_mode():
            found.append([
                DraftContext(target, it.space, target.embed(ids, image), [])
                for image in (pixels, pixels + off)])
    return found


def guess(drafter, context, situation=UNKNOWN):
    """Tokens of the guessed paths, in order."""
    with torch.inference_mode():
        tree = drafter.guess(replace(context, situation=situation))
    ways, leaves = {-1: []}, []
    for node, (token, parent) in enumerate(
            zip(tree.tokens.tolist(), tree.parents.tolist(), strict=True)):
        ways[node] = [*ways[parent], token]
        if node not in tree.parents.tolist():
            leaves.append(ways[node])
    return leaves


def action(it, number):
    """Return an action, [L] tokens, of a scene."""
    return [it.space.tokenizer.first_id + number] * it.space.length


def database(it, seed=0, entries=12):
    """Return a database of random images' actions."""
    random, config = np.random.default_rng(seed), it.model.config
    patches = random.normal(size=(entries, config.n_patches, config.hidden_size))
    text = torch.from_numpy(random.normal(size=(entries, config.hidden_size)))
    columns = random.integers(0, 256, (entries, it.space.length))
    return fitted(it.model, [Seen(*each) for each in zip(
        patches.astype(np.float16), text, columns, strict=True)], rank=4, size=6)


def test_filled_while_running_it_guesses_what_was_done_when_the_same_was_seen(lab):
    it = lab(0, 4, 1)
    drafter = Retrieval(neighbours=1, memory=8).drafter(ActionMemory.empty(it.model))
    pairs = scenes(it, 5)
    for number, (first, _) in enumerate(pairs):
        assert len(guess(drafter, first)) == (number > 0)
        drafter.remember(action(it, number))
        drafter.reset()  # another episode remembers it as well
    for number, (_, again) in enumerate(pairs):
        assert guess(drafter, again) == [action(it, number)[:3]]


def test_its_memory_is_bounded_and_the_oldest_is_forgotten(lab):
    it = lab(0, 3, 1)
    drafter = Retrieval(neighbours=8, memory=3).drafter(ActionMemory.empty(it.model))
    (context, _), = scenes(it, 1)
    for number in range(10):
        guess(drafter, context)
        drafter.remember(action(it, number))
    assert sorted(guess(drafter, context)) == [action(it, number)[:2] for number in (7, 8, 9)]


def test_an_action_that_was_not_executed_is_not_remembered(lab):
    it = lab(0, 3, 1)
    drafter = Retrieval(memory=3).drafter(ActionMemory.empty(it.model))
    (context, _), = scenes(it, 1)
    guess(drafter, context)
    drafter.reset()
    drafter.remember(action(it, 1))
    assert guess(drafter, context) == []


def test_neighbours_are_one_tree_that_shares_its_beginnings(lab):
    it = lab(0, 4, 1)
    drafter = Retrieval(neighbours=3, memory=8).drafter(ActionMemory.empty(it.model))
    (context, _), = scenes(it, 1)
    first = it.space.tokenizer.first_id
    for tokens in ([1, 2, 3, 0], [1, 2, 4, 0], [5, 6, 7, 0]):
        guess(drafter, context)
        drafter.remember([first + token for token in tokens])
    with torch.inference_mode():
        assert len(drafter.guess(context)) == 7


def test_where_known_the_position_tells_equal_images_apart(lab):
    it = lab(0, 3, 1)
    (context, _), = scenes(it, 1)
    places = [Situation(eef_position=(0.1 * number, 0.0, 0.3)) for number in range(4)]
    drafter = Retrieval(neighbours=1, memory=8).drafter(ActionMemory.empty(it.model))
    for number, place in enumerate(places):
        guess(drafter, context, place)
        drafter.remember(action(it, number))
    for number, place in enumerate(places):
        assert guess(drafter, context, place) == [action(it, number)[:2]]
    # Of one entry no position is known: from then on images alone count, for all.
    guess(drafter, context)
    drafter.remember(action(it, 9))
    assert guess(drafter, context, places[3]) == guess(drafter, context, places[0])


def test_the_nearest_by_faiss_are_the_nearest_by_tensors(lab):
    it = lab(0, 4, 1)
    drafter = Retrieval(neighbours=5).drafter(database(it))
    for _, context in scenes(it, 4):
        guess(drafter, context)
        found = drafter._search(drafter._seen, drafter._entries, 0, neighbours=5)
        assert found.tolist() == drafter._guessed.tolist()


def test_a_database_comes_back_as_it_was_written(lab, tmp_path):
    it = lab(0, 4, 1)
    made = database(it)
    made.save(tmp_path)
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1  # weights as the rest
    read = ActionMemory.read(tmp_path, it.model)
    (context, _), = scenes(it, 1)
    first, second = (Retrieval().drafter(memory) for memory in (made, read))
    assert guess(first, context) == guess(second, context) != []


def test_a_database_of_another_checkpoint_is_refused_in_one_line(lab, tmp_path):
    database(lab(0, 4, 1)).save(tmp_path)
    with pytest.raises(SpecVLAError, match='made with another checkpoint') as refused:
        ActionMemory.read(tmp_path, lab(1, 4, 1).model)
    assert '\n' not in str(refused.value) and str(tmp_path) in str(refused.value)
    with torch.device('meta'):  # a folder is checked before weights are read
        skeleton = type(lab(1, 4, 1).model)(lab(1, 4, 1).model.config)
    assert len(ActionMemory.read(tmp_path, skeleton)) == 12


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_checkpoint_in_another_data_type_is_the_same(lab, tmp_path, dtype):
    model = lab.new_model(0).bfloat16()  # as it is stored
    it = lab(0, 4, 1)
    replace(database(it), fingerprint=fingerprint(model)).save(tmp_path)
    assert len(ActionMemory.read(tmp_path, model.to(dtype))) == 12


def test_a_damaged_database_is_refused_in_one_line(lab, tmp_path):
    it = lab(0, 4, 1)
    database(it).save(tmp_path)
    weights = tmp_path / 'model.safetensors'
    tensors, content = load_file(weights), json.loads((tmp_path / 'config.json').read_text())

    def refused(match, error=SpecVLAError):
        with pytest.raises(error, match=match) as raised:
            ActionMemory.read(tmp_path, it.model)
        assert '\n' not in str(raised.value)

    for name, value, match in (
            ('columns', tensors['columns'] + 256, 'columns are'),
            ('columns', tensors['columns'].float(), 'tensor columns is'),
            ('columns', tensors['columns'][:0], 'holds no actions|tensor'),
            ('descriptors', tensors['descriptors'][:-1], 'tensor descriptors is'),
            ('descriptors', tensors['descriptors'] * torch.nan, 'not finite'),
            ('mean', tensors['mean'][1:], 'tensor mean is'),
            ('more', tensors['mean'].clone(), 'do not belong')):
        save_file({**tensors, name: value.contiguous()}, weights)
        refused(match)
    weights.write_bytes(b'version https://git-lfs')
    refused('can not be read')
    weights.unlink()
    refused('no such file', FileNotFoundError)
    save_file(tensors, weights)
    for change, match in (({'model_type': 'glance'}, 'no database'), ({'size': 0}, 'size is 0'),
                          ({'hidden_size': 7}, "another model's"), ({'colour': 1}, 'colour')):
        (tmp_path / 'config.json').write_text(json.dumps({**content, **change}))
        refused(match)
    (tmp_path / 'config.json').write_text('{')
    refused('config.json')


def test_without_a_database_and_a_memory_there_is_nothing_to_guess(lab):
    with pytest.raises(SpecVLAError, match='specvla train retrieval'):
        Retrieval().drafter(ActionMemory.empty(lab(0, 4, 1).model))


@pytest.mark.parametrize('setting', [
    {'neighbours': 0}, {'neighbours': 65}, {'neighbours': True}, {'memory': -1}, {'memory': 1.5},
    {'position_scale': -1}, {'position_scale': float('inf')}, {'position_scale': 'far'}])
def test_settings_that_cannot_be_are_refused(setting):
    with pytest.raises(SpecVLAError, match='of the drafter retrieval is'):
        DRAFTERS.make('retrieval', setting)


def test_a_descriptor_of_a_database_spreads_images_more_evenly_than_a_random_one(lab):
    it, random = lab(0, 4, 1), np.random.default_rng(0)
    config = it.model.config
    # A few directions vary a lot; what tells actions apart varies little.
    loud = random.normal(size=(60, 1, 1)) * random.normal(
        size=(1, config.n_patches, config.hidden_size)) * 20
    quiet = random.normal(size=(60, config.n_patches, config.hidden_size))
    patches = (loud + quiet).astype(np.float16)
    text = torch.zeros(60, config.hidden_size).double()
    columns = random.integers(0, 256, (60, 4))
    memory = fitted(it.model, [Seen(*each) for each in zip(
        patches, text, columns, strict=True)], rank=4, size=6)
    plain = Descriptor.random(MemoryShape.like(it.model, 4, rank=4, size=6))

    def share(described):
        spread = described[:, :6].var(0)
        return float(torch.linalg.eigvalsh(torch.cov(described[:, :6].T))[-1] / spread.sum())

    assert share(memory.descriptors) < share(plain(torch.from_numpy(patches), text.float()))


@given(seed=st.integers(0, 3), layout=st.tuples(st.integers(1, 7), st.integers(1, 3)),
       runner=st.sampled_from(['plain', 'graphs']), stored=st.booleans(),
       memory=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_strict_is_ar(seed, layout, runner, stored, memory, lab):
    it = lab(seed, *layout)
    known = database(it) if stored else ActionMemory.empty(it.model)
    drafter = RelayDrafter(
        [Retrieval(neighbours=3, memory=memory).drafter(known), Jacobi().drafter(None)], nodes=9)
    decoder, right = it.decoder(drafter, Strict(), runner), it.ar()
    for _ in range(4):
        tokens, _ = decoder.decode(*it.prompt)
        assert tokens == right
        drafter.remember(tokens)
