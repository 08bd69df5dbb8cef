"""A guess from the image's patches: lossless under ``strict``, and what its tree looks like."""

from dataclasses import replace
import json

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from specvla_ros.configuration import load_preset
from specvla_ros.decoding.drafters import (
    check_drafter,
    DraftContext,
    GlanceConfig,
    GlanceDrafter,
    GlanceHead,
    GlanceSettings,
    HistoryDrafter,
    make_drafter,
)
from specvla_ros.decoding.rules.bins import Bins
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.decoding.target import Target
from specvla_ros.errors import SpecVLAError


def says(drafter, layout, logits):
    """Let a drafter's head say these logits [L, bins], whatever it sees."""
    mixture, shapes = drafter.head.mixture, drafter.head.shapes
    for parameter in (mixture.weight, mixture.bias, shapes.weight, shapes.bias):
        parameter.zero_()
    for token, said in enumerate(logits):  # a shape of its own for each
        mixture.bias.view(len(logits), -1)[token, token] = 1
        shapes.weight[:, token] = said
    return drafter


def surely(layout, tokens):
    """Logits [L, bins] of somebody who is sure of these tokens."""
    logits = torch.zeros(len(tokens), layout.tokenizer.n_bins)
    logits[range(len(tokens)), [token - layout.tokenizer.first_id for token in tokens]] = 20
    return logits


def trees(it, drafter, known):
    """Tree that it guesses, and the one it proposes behind known tokens."""
    target, tokens = Target(it.model), []
    context = DraftContext(target, it.space, target.embed(*it.prompt), tokens)
    guess = drafter.guess(context)
    tokens += known
    return guess, drafter.propose(context)


@given(
    seed=st.integers(0, 2**20),
    layout=st.tuples(st.integers(1, 8), st.integers(1, 3)),
    setting=st.builds(GlanceSettings, within=st.integers(0, 12), branches=st.integers(1, 3)),
    runner=st.sampled_from(['plain', 'graphs']),
)
@settings(max_examples=30, deadline=None)
def test_strict_is_ar_whatever_it_sees(seed, layout, setting, runner, lab):
    it = lab(seed % 4, *layout)
    tokens, trace = it.decode(it.glance(seed, setting), Strict(), runner)
    assert tokens == it.ar()
    assert sum(gained for _, gained in trace.drafts) + trace.target_passes == len(tokens)


def test_a_right_guess_leaves_the_prefill_alone(lab):
    it = lab(1, 7, 1)
    right = it.ar()
    drafter = says(it.glance(0), it.space, surely(it.space, right))
    tokens, trace = it.decode(drafter, Strict())
    assert tokens == right
    assert trace.target_passes == 1
    assert trace.sources == ['glance'] * 6 + ['target']


def test_graphs_and_their_padding_change_no_guess(lab):
    it = lab(2, 7, 1)
    plain, graphs = (
        it.decoder(it.glance(5, GlanceSettings(within=4, branches=3)), Bins(40), runner)
        for runner in ('plain', 'graphs')
    )
    for prompt in (it.prompt, it.longer_prompt, it.prompt):
        tokens, trace = plain.decode(*prompt)
        again, other = graphs.decode(*prompt)
        assert (again, other.drafts, other.sources) == (tokens, trace.drafts, trace.sources)


def test_what_it_says_depends_on_image_and_instruction(lab):
    it = lab(0, 7, 1)
    ids, pixels = it.prompt
    target, drafter = Target(it.model), it.glance(3)

    def guess(ids, pixels):
        context = DraftContext(target, it.space, target.embed(ids, pixels), [])
        return drafter.guess(context).tokens.tolist()

    assert guess(ids, pixels) == guess(ids, pixels)
    assert guess(ids, pixels) != guess(ids, -pixels)
    assert guess(ids, pixels) != guess(it.longer_prompt[0], pixels)


def test_branches_differ_in_the_first_token_and_go_on_alike(lab):
    it = lab(0, 5, 1)
    first = it.space.tokenizer.first_id
    logits = surely(it.space, [first + 50, first + 60, first + 70, first + 80, first + 90])
    logits[0, 200] = logits[1, 210] = 19
    drafter = says(it.glance(0, GlanceSettings(branches=2)), it.space, logits)
    guess, rest = trees(it, drafter, [first])
    assert (guess.tokens - first).tolist() == [50, 60, 70, 80, 200, 60, 70, 80]
    assert guess.parents.tolist() == [-1, 0, 1, 2, -1, 4, 5, 6]
    assert (rest.tokens - first).tolist() == [60, 70, 80]
    assert set(guess.sources) == {'glance'}


def test_within_guesses_the_middle_of_the_likeliest_stretch_but_not_of_the_gripper(lab):
    it = lab(0, 2, 2)
    first = it.space.tokenizer.first_id
    logits = torch.full((4, it.space.tokenizer.n_bins), -20.0)
    logits[:, 30] = 1.0  # the likeliest bin
    logits[:, [100, 104, 108]] = 0.5  # the likeliest stretch
    for within, expected in ((0, [30, 30, 30]), (4, [104, 30, 104]), (10**9, [30, 30, 30])):
        drafter = says(it.glance(0, GlanceSettings(within=within)), it.space, logits)
        guess, _ = trees(it, drafter, [first])
        assert (guess.tokens - first).tolist() == expected
    sure = surely(it.space, [first + 50, first + 60, first + 70, first + 80])
    guess, _ = trees(it, says(it.glance(0, GlanceSettings(within=9)), it.space, sure), [first])
    assert (guess.tokens - first).tolist() == [50, 60, 70]  # not the end of a stretch around it
    drafter = says(it.glance(0, GlanceSettings(within=4, branches=2)), it.space, logits)
    guess, _ = trees(it, drafter, [first])
    assert abs(int(guess.tokens[3]) - first - 104) > 4  # the next guess is another stretch


def test_it_never_guesses_beyond_what_it_was_trained_for(lab):
    it = lab(0, 7, 2)
    head = GlanceHead(GlanceConfig.like(it.model, 7, rank=2, width=4)).double()
    guess, rest = trees(it, GlanceDrafter(head.eval(), GlanceSettings()), [70] * 9)
    assert len(guess) == 7
    assert len(rest) == 0
    assert it.decode(GlanceDrafter(head, GlanceSettings()), Strict())[0] == it.ar()


def test_numbers_that_are_not_finite_are_said(lab):
    it = lab(0, 7, 1)
    for relay in (lambda drafter: drafter, lambda drafter: HistoryFirst(drafter)):
        drafter = it.glance(0)
        drafter.head.second.bias[0] = torch.nan
        with pytest.raises(SpecVLAError, match='drafter gave probabilities that are not finite'):
            it.decode(relay(drafter), Strict())


def HistoryFirst(drafter):  # noqa: N802 (reads as what it makes)
    """A relay whose merged tree still knows."""
    from specvla_ros.decoding.drafters import Held, RelayDrafter

    history = HistoryDrafter(Held())
    history.remember([70, 71, 72, 73, 74, 75, 76])
    return RelayDrafter([history, drafter])


def test_saved_and_loaded_it_says_the_same(lab, tmp_path):
    it = lab(0, 7, 1)
    drafter = it.glance(1)
    drafter.head.save_pretrained(tmp_path)
    again = GlanceHead.from_pretrained(tmp_path, it.model)
    assert again.config == drafter.head.config
    patches, text = torch.randn(1, 4, 32).double(), torch.randn(1, 32).double()
    torch.testing.assert_close(
        again(patches, text), drafter.head(patches, text), rtol=1e-5, atol=1e-5)
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1  # weights as the rest


@pytest.mark.parametrize(('change', 'message'), [
    ({'hidden_size': 64}, 'hidden_size is 64, must be the target'),
    ({'bins': 128}, 'tensor shapes.weight'),
    ({'model_type': 'eagle'}, "is no glance network .model_type 'eagle'"),
    ({'width': 0}, 'glance width is 0, must be a positive whole number'),
    ({'rank': None}, 'glance rank is None'),
])
def test_a_folder_that_does_not_fit_is_refused_in_one_line(lab, tmp_path, change, message):
    it = lab(0, 7, 1)
    it.glance(1).head.save_pretrained(tmp_path)
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SpecVLAError, match=message) as caught:
        GlanceHead.from_pretrained(tmp_path, it.model)
    assert '\n' not in str(caught.value)


def test_another_models_glance_is_refused(lab, tmp_path):
    it = lab(0, 7, 1)
    config = replace(GlanceConfig.like(it.model, 7, rank=2, width=4), patches=9)
    GlanceHead(config).save_pretrained(tmp_path)
    with pytest.raises(SpecVLAError, match="patches is 9, must be the target's 4"):
        GlanceHead.from_pretrained(tmp_path, it.model)


def test_without_its_folder_a_decoder_is_refused_before_anything_is_loaded(tmp_path):
    config = load_preset('glance')
    with pytest.raises(SpecVLAError, match='decoder glance drafts with glance, but there is no'):
        check_drafter(config, tmp_path)


@pytest.mark.parametrize(('given', 'message'), [
    ({'within': -1}, 'within of the drafter glance is -1, must be a whole number >= 0'),
    ({'branches': 0}, 'branches of the drafter glance is 0, must be a whole number >= 1'),
    ({'width': 3}, 'drafter glance has no setting width; it has within, branches'),
])
def test_what_a_glance_can_not_be(given, message):
    with pytest.raises(SpecVLAError, match=message):
        make_drafter('glance', given, {})
