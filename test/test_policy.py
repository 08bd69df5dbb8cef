"""The facade on a small random checkpoint, saved and loaded as any other."""

from dataclasses import dataclass, replace
import json
import shutil
import sys

import numpy as np
import pytest
from tokenizers import models, pre_tokenizers, Tokenizer
import torch
from transformers import PreTrainedTokenizerFast

from specvla_ros.actions import bin_si, to_si
from specvla_ros.benchmark import machine
from specvla_ros.components import Component
from specvla_ros.configuration import DecoderConfig, load_preset
from specvla_ros.data_sets import load_dataset
from specvla_ros.decoding import drafters, rules
from specvla_ros.decoding.drafters import EagleConfig, EagleHead, NoDrafter
from specvla_ros.errors import SpecVLAError
from specvla_ros.graphs import GraphRunner
from specvla_ros.loaded_checkpoint import Checkpoint
from specvla_ros.openvla.config import OpenVLAConfig
from specvla_ros.openvla.image_transform import ImageTransform
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.policy import Policy
from specvla_ros.safety import fit, step_limits
from specvla_ros.safety_settings import SafetySettings
from specvla_ros.situation import Situation

WORDS = ['<unk>', '<s>', '</s>', *'In : What action should the robot take to ? Out'.split()]
WORDS += ['\n', 'pick', 'up', 'milk', 'place', 'it']
KEY = 'libero_object'
STATISTICS = {
    'q01': [-1.0, -0.8, -0.6, -0.1, -0.2, -0.1, 0.0],
    'q99': [1.0, 0.8, 0.9, 0.1, 0.2, 0.3, 1.0],
    'mask': [True] * 6 + [False],
}
INSTRUCTION = 'pick up the milk'


def fake_frame(seed=0, size=64):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def small_model(key=KEY, statistics=STATISTICS):
    torch.manual_seed(0)
    tower = {'hidden_size': 16, 'depth': 2, 'num_heads': 2, 'mlp_size': 32}
    model = OpenVLA(OpenVLAConfig.from_dict({
        'model_type': 'openvla',
        'image_sizes': [28, 28],
        'vision_config': {'patch_size': 14, 'registers': 4, 'dino': tower, 'siglip': tower},
        'text_config': {
            'vocab_size': len(WORDS) + 256 + 64,
            'hidden_size': 32,
            'intermediate_size': 64,
            'num_hidden_layers': 2,
            'num_attention_heads': 4,
            'head_dim': 8,
        },
    }))
    with torch.no_grad():
        for parameter in (*model.language_model.parameters(), *model.lm_head.parameters()):
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    names = [*WORDS, *(f'<action_{i}>' for i in range(256))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token='<unk>'))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split('\n', 'isolated'),
        pre_tokenizers.Split(' ', 'removed'),
        pre_tokenizers.Punctuation(),
    ])
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    model.norm_stats = {key: {'action': statistics}}
    return model


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Folder of a target with a drafter beside it, as the embedded checkpoint has them."""
    path, model = tmp_path_factory.mktemp('checkpoint'), small_model()
    model.save_pretrained(path)
    EagleHead(EagleConfig.like(model)).save_pretrained(path / 'drafter')
    return path


@pytest.fixture(scope='module')
def policy(folder):
    return Policy.load(folder, device='cpu')


def test_an_instruction_that_the_model_has_no_positions_for_is_refused(policy):
    config = policy.checkpoint.model.config
    most = config.text_config.max_position_embeddings - config.n_patches - policy.action_length
    rest = policy.checkpoint.prompt_ids('pick').shape[1] - 1
    words = ['pick'] * (most - rest)
    assert policy.checkpoint.prompt_ids(' '.join(words)).shape == (1, most)
    too_long = ' '.join([*words, 'pick'])
    with pytest.raises(ValueError, match=f'has {len(too_long)} characters .* at most {most}: '):
        policy.act(fake_frame(), too_long)


@pytest.mark.parametrize('decoder', ['ar', 'strict', 'relaxed'])
def test_an_action_is_its_tokens_in_three_units(policy, decoder):
    policy = policy.with_decoder(decoder)
    action = policy.act(fake_frame(), INSTRUCTION)
    assert policy.action_length == len(action.tokens) == 7
    tokenizer = policy.checkpoint.model.action_tokenizer
    assert (tokenizer.decode(action.tokens) == action.normalized[0]).all()
    q01, q99 = np.array(STATISTICS['q01']), np.array(STATISTICS['q99'])
    values = np.append((0.5 * (action.normalized + 1) * (q99 - q01) + q01)[0, :6],
                       action.normalized[0, 6])
    np.testing.assert_allclose(action.values[0], values, atol=1e-6)
    np.testing.assert_allclose(action.si[0, :3], 0.05 * values[:3], atol=1e-6)
    np.testing.assert_allclose(action.si[0, 3:6], 0.5 * values[3:6], atol=1e-6)
    assert action.si[0, 6] == np.clip(action.values[0, 6], 0, 1)
    for array in (action.normalized, action.values, action.si):
        assert (array.shape, array.dtype) == ((1, 7), np.float32)


def test_all_decoders_share_the_weights_and_strict_gives_what_ar_does(policy):
    ar, strict = policy.with_decoder('ar'), policy.with_decoder('strict')
    assert ar.checkpoint is strict.checkpoint is policy.checkpoint
    for seed in range(3):
        frame = fake_frame(seed)
        assert ar.act(frame, INSTRUCTION).tokens == strict.act(frame, INSTRUCTION).tokens


@pytest.mark.parametrize('decoder', ['strict', 'history', 'hybrid'])
def test_warming_up_leaves_nothing_behind(policy, decoder):
    fresh, warm = policy.with_decoder(decoder), policy.with_decoder(decoder)
    warm.warm_up()
    for seed in (0, 0, 1):
        action, other = (it.act(fake_frame(seed), INSTRUCTION) for it in (fresh, warm))
        assert (action.tokens, action.trace.drafts) == (other.tokens, other.trace.drafts)


class CountingRunner(GraphRunner):
    """Counts captures and computes anew at each replay."""

    def _capture(self, function, buffers):
        outputs = function(*buffers)

        def replay():
            news = function(*buffers)
            pairs = [(outputs, news)] if isinstance(outputs, torch.Tensor) else zip(outputs, news)
            for output, new in pairs:
                output.copy_(new)

        return replay, outputs


@pytest.mark.parametrize('decoder', ['ar', 'strict', 'history', 'auto'])
@pytest.mark.parametrize('instruction', ['take action', INSTRUCTION, 8 * 'pick up the milk '])
def test_no_prompt_of_a_usual_length_is_captured_while_acting(
    policy, decoder, instruction, monkeypatch,
):
    monkeypatch.setattr('specvla_ros.decoding.target.runner_on', CountingRunner)
    policy = policy.with_decoder(decoder)
    policy.warm_up()
    runner = policy._decoder.target.runner
    captures = runner.captures
    assert captures > 2
    for seed in (0, 1, 1):
        policy.act(fake_frame(seed), instruction)
    assert runner.captures == captures


def test_strict_gives_what_ar_does_on_the_same_quantised_weights(folder):
    ar = Policy.load(folder, decoder='ar', device='cpu', quantization='int8')
    for decoder in ('strict', 'hybrid'):
        policy = ar.with_decoder(decoder)
        for seed in (0, 0, 1, 2):
            frame = fake_frame(seed)
            assert policy.act(frame, INSTRUCTION).tokens == ar.act(frame, INSTRUCTION).tokens


def test_int4_computes_in_bfloat16(folder):
    policy = Policy.load(folder, decoder='strict', device='cpu', quantization='int4')
    assert policy.checkpoint.model.dtype == torch.bfloat16
    assert len(policy.act(fake_frame(), INSTRUCTION).tokens) == 7


def guessed_by_history(policy, seed, instruction=INSTRUCTION, stamp=None):
    """Act, and say whether the prefill held a guess."""
    return policy.act(fake_frame(seed), instruction, stamp).trace.drafts[0][0] > 0


@pytest.mark.parametrize('decoder', ['history', 'hybrid'])
def test_drafters_that_remember_are_lossless_and_guess_in_the_prefill(policy, decoder):
    ar, hybrid = policy.with_decoder('ar'), policy.with_decoder(decoder)
    for seed in (0, 0, 1, 1, 1):
        action = hybrid.act(fake_frame(seed), INSTRUCTION)
        assert action.tokens == ar.act(fake_frame(seed), INSTRUCTION).tokens
    assert action.trace.target_passes == 1
    # Nothing has moved, so both say the same; the first of them gets the credit.
    assert action.trace.sources == ['velocity'] * 6 + ['target']


def test_the_targets_own_words_are_lossless_and_named_as_their_source(policy):
    ar, jacobi = policy.with_decoder('ar'), policy.with_decoder('jacobi')
    saved = []
    for seed in (0, 0, 1, 2, 3, 4):
        action = jacobi.act(fake_frame(seed), INSTRUCTION)
        assert action.tokens == ar.act(fake_frame(seed), INSTRUCTION).tokens
        assert set(action.trace.sources) <= {'jacobi', 'target'}
        saved.append(7 - action.trace.target_passes)
    assert saved[1] == 6  # the last action again, verified in the prefill
    assert sum(saved) > 6  # and where the frame is another one, sometimes its own words


def test_earlier_actions_are_forgotten_where_they_say_nothing(policy):
    policy = policy.with_decoder('history')
    assert not guessed_by_history(policy, 0)
    assert guessed_by_history(policy, 1)
    assert not guessed_by_history(policy, 1, 'pick up milk')
    assert guessed_by_history(policy, 1, 'pick up milk')
    policy.reset()
    assert not guessed_by_history(policy, 1, stamp=10.0)
    assert guessed_by_history(policy, 1, stamp=10.4)
    assert not guessed_by_history(policy, 1, stamp=11.0)
    assert not guessed_by_history(policy, 1, stamp=10.9)


def test_what_is_remembered_is_counted_in_control_periods(policy, monkeypatch):
    """At 3 Hz a frame may get lost: the next one comes 0.67 s after the last."""
    policy = policy.with_decoder('history')
    dataset = replace(policy.checkpoint.dataset, period_s=1 / 3)
    monkeypatch.setattr(policy.checkpoint, 'dataset', dataset)
    assert not guessed_by_history(policy, 1, stamp=10.0)
    assert guessed_by_history(policy, 1, stamp=10.0 + 2 / 3)
    assert not guessed_by_history(policy, 1, stamp=15.0)


def test_an_action_that_is_refused_is_not_remembered(policy, monkeypatch):
    policy = policy.with_decoder('history')
    monkeypatch.setattr(policy, '_action', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        policy.act(fake_frame(), INSTRUCTION)
    monkeypatch.undo()
    assert not guessed_by_history(policy, 0)


def test_the_default_decoder_is_auto_relaxed_with_the_drafters_in_the_checkpoint(policy):
    assert policy.decoder_config == load_preset('auto_relaxed')
    assert policy.dataset == load_dataset(KEY)
    traces = [policy.act(fake_frame(), INSTRUCTION).trace for _ in range(10)]
    assert traces[0].decoder == 'ar' and sum(trace.drafted for trace in traces) > 0
    assert {'ar', 'history_relaxed'} <= {trace.decoder for trace in traces}
    # The tiny checkpoint has no glance.
    assert '; glance_jacobi_relaxed left out: decoder glance_jacobi_relaxed drafts' \
        in traces[-1].reason
    trace = traces[-1]
    assert list(trace.stage_ms) == ['preprocess', 'vision', 'prefill', 'draft', 'verify', 'total']
    parts = sum(ms for stage, ms in trace.stage_ms.items() if stage != 'total')
    assert 0 < parts <= trace.stage_ms['total']


@pytest.mark.parametrize('name', ['libero_object', 'bridge_orig'])
def test_a_bin_is_worth_what_the_next_action_differs_by(name, policy):
    space, statistics = policy.checkpoint.space, policy.checkpoint.statistics
    dataset = load_dataset(name)
    worth = np.array(bin_si(statistics, dataset, space.tokenizer.n_bins))
    # Turns about one axis at a time, so that angles add; gripper values that are not clipped.
    for dimension in range(7):
        values = np.zeros((2, 7))
        bins = [space.tokenizer.first_id + 128, space.tokenizer.first_id + 127]
        values[:, dimension] = statistics.unnormalize(
            np.repeat(space.tokenizer.decode(bins)[:, None], 7, 1))[:, dimension]
        values[:, 6] = values[:, 6] if dimension == 6 else 0.5
        before, after = to_si(values, dataset)
        if dimension == 6:
            opened, closed = dataset.gripper_open, dataset.gripper_closed
            before[6], after[6] = (values[:, 6] - closed) / (opened - closed)
        assert abs(after - before)[dimension] == pytest.approx(worth[dimension], rel=1e-4)
    assert space.bin_si == pytest.approx(bin_si(statistics, policy.dataset, 256))
    assert len(space.bin_si) == space.action_dim


@dataclass(frozen=True)
class Seen:
    """A rule and a guard that note what they are asked with."""

    situations: list

    def reach(self, space, situation):
        self.situations.append(situation)
        return (0,) * space.length


def test_a_rule_is_told_what_the_robot_knows(policy):
    policy = policy.with_decoder('ar')
    seen, acceptance = Seen([]), policy._decoder.acceptance
    policy._decoder = replace(policy._decoder, acceptance=replace(acceptance, rule=seen))
    first = policy.act(fake_frame(0), INSTRUCTION, 10.0)
    second = policy.act(fake_frame(1), INSTRUCTION, 10.2, (0.1, 0.2, 0.3))
    policy.act(fake_frame(2), INSTRUCTION, 10.4)
    policy.act(fake_frame(2), 'pick up it', 10.6)
    policy.reset()
    policy.act(fake_frame(2), 'pick up it')
    assert seen.situations == [
        Situation(10.0),
        Situation(10.2, (0.1, 0.2, 0.3), tuple(first.si[-1].tolist()), 1),
        Situation(10.4, None, tuple(second.si[-1].tolist()), 2),
        Situation(10.6),
        Situation(),
    ]
    assert [len(it.recent) for it in seen.situations] == [0, 1, 2, 0, 0]
    assert seen.situations[2].recent == tuple(tuple(it.si[-1].tolist()) for it in (first, second))
    assert [it.risk for it in seen.situations] == [None, first.trace.risk, second.trace.risk,
                                                   None, None]


def test_a_situation_remembers_ten_control_steps(folder):
    policy, steps = Policy.load(folder, decoder='ar', device='cpu', chunk=3), []
    seen = Seen([])
    policy._decoder = replace(policy._decoder, acceptance=replace(
        policy._decoder.acceptance, rule=seen))
    for seed in range(5):
        steps.append(policy.act(fake_frame(seed), INSTRUCTION, executed=2).si[:2].tolist())
    assert seen.situations[-1].recent == tuple(map(tuple, sum(steps[:4], [])))
    policy.act(fake_frame(5), INSTRUCTION)  # nothing said: all three steps
    policy.act(fake_frame(6), INSTRUCTION)
    assert len(seen.situations[-1].recent) == 10


def test_an_action_says_how_far_its_tokens_are_off_in_si(policy):
    policy = policy.with_decoder('history_relaxed')
    policy = policy.with_decoder(replace(
        policy.decoder_config, rule=Component('bins', {'r': 80, 'gripper_exact': False})))
    off = []
    for seed in range(6):
        trace = policy.act(fake_frame(seed), INSTRUCTION).trace
        worth = np.array(trace.bins_off) * policy.checkpoint.space.bin_si
        np.testing.assert_allclose(trace.si_off, worth)
        assert 0 < trace.risk < 1
        off += [it for it, origin in zip(trace.bins_off, trace.origins, strict=True)
                if origin == 'accepted']
        assert all(it == 0 for it, origin in zip(trace.bins_off, trace.origins, strict=True)
                   if origin == 'chosen')
    assert max(off) > 0  # something was accepted that was not the target's own


def test_a_presets_risk_makes_the_next_action_strict(policy):
    relaxed = Component('bins', {'r': 255, 'gripper_exact': False})
    config = replace(load_preset('history_relaxed'), rule=relaxed)
    for limit, equal in ((0.0, True), (1.0, False)):
        actor = policy.with_decoder(replace(config, strict_above_risk=limit))
        first, second = (actor.act(fake_frame(seed), INSTRUCTION) for seed in (0, 1))
        ar = policy.with_decoder('ar').act(fake_frame(1), INSTRUCTION)
        assert (second.tokens == ar.tokens) == equal


@dataclass(frozen=True)
class Low:
    """A guard: only the lower half of the bins, the upper half at a known position."""

    def allowed(self, said, position, state, space):
        lower = torch.arange(space.tokenizer.n_bins) >= space.tokenizer.n_bins // 2
        return (lower ^ ~state[1].isnan()).expand(len(said), -1)


@pytest.mark.parametrize('decoder', ['ar', 'strict', 'relaxed', 'hybrid', 'auto'])
def test_a_guard_holds_under_every_decoder(folder, policy, decoder):
    guarded = Policy(policy.checkpoint, load_preset('ar'), Low()).with_decoder(decoder)
    for seed in range(3):
        low = guarded.act(fake_frame(seed), INSTRUCTION)
        assert low.normalized.max() <= 0
        assert guarded.act(fake_frame(seed), INSTRUCTION, None, (0, 0, 0)).normalized.min() >= 0
        if decoder in ('strict', 'auto'):
            ar = guarded.with_decoder('ar').act(fake_frame(seed), INSTRUCTION)
            assert low.tokens == ar.tokens
    assert Policy.load(folder, decoder=decoder, device='cpu', guard=Low()).guard == Low()


def test_no_bins_are_free_of_an_own_guard_nor_in_a_chunk(policy):
    """Both may forbid more than the limits of the first step say."""
    limits = step_limits(SafetySettings.read('safety_arm'), 0.05)
    guarded = Policy(policy.checkpoint, load_preset('ar'), Low())
    assert len(policy._within(limits)[1].free_bins) == 7
    assert guarded._within(limits)[1].free_bins == ()
    checkpoint = Checkpoint(policy.checkpoint.model, drafters=policy.checkpoint.drafters, chunk=2)
    chunks = Policy(checkpoint, load_preset('ar'))
    assert chunks._within(limits)[1].free_bins == ()


@pytest.mark.parametrize('chunk', [1, 2])
def test_within_limits_no_decoder_says_an_action_outside_and_strict_says_what_ar_does(
    policy, chunk
):
    checkpoint = Checkpoint(policy.checkpoint.model, drafters=policy.checkpoint.drafters,
                            chunk=chunk)
    arm = replace(SafetySettings.read('safety_arm'), acceleration_m_s2=4.0)
    knows = {'position_m': (0.5, 0.399, 0.3), 'previous': np.full(7, 0.005)}
    limits, forbidden = step_limits(arm, 0.05, **knows), 0
    for seed in range(3):
        said = {}
        for decoder in ('ar', 'strict', 'history', 'hybrid', 'relaxed', 'hybrid_relaxed'):
            it = Policy(checkpoint, load_preset(decoder))
            for _ in range(2):  # the second time some remember
                action = it.act(fake_frame(seed), INSTRUCTION, limits=limits)
            assert fit(action.si, arm, 0.05, **knows).limited_by == ()
            said[decoder] = action.tokens
            forbidden += action.trace.forbidden
        assert said['ar'] == said['strict'] == said['history'] == said['hybrid']
    assert forbidden


@pytest.mark.parametrize('decoder', ['ar', 'strict', 'relaxed', 'hybrid_relaxed'])
def test_where_nothing_was_forbidden_limits_change_nothing(policy, decoder):
    alone, within = policy.with_decoder(decoder), policy.with_decoder(decoder)
    low, high = (replace(SafetySettings.read('safety_arm'), **{
        'step_translation_m': most, 'speed_m_s': 9.0, 'acceleration_m_s2': 900.0,
        'step_rotation_rad': 9.0, 'turn_rate_rad_s': 99.0, 'turn_acceleration_rad_s2': 9e3,
    }) for most in (0.03, 0.06))
    counts = set()
    for seed, settings in enumerate((low, high) * 4):
        limits = step_limits(settings, 0.05)
        alone.reset(), within.reset()
        free = alone.act(fake_frame(seed), INSTRUCTION)
        action = within.act(fake_frame(seed), INSTRUCTION, limits=limits)
        counts.add(action.trace.forbidden > 0)
        fits = not fit(free.si, settings, 0.05).limited_by
        if decoder in ('ar', 'strict'):
            assert (action.tokens == free.tokens) == fits == (not action.trace.forbidden)
        elif fits and not action.trace.forbidden:
            assert action.tokens == free.tokens
    assert counts == {True, False}


def test_a_chunk_is_several_steps(folder):
    policy = Policy.load(folder, decoder='ar', device='cpu', chunk=3)
    action = policy.act(fake_frame(), INSTRUCTION)
    assert policy.action_length == len(action.tokens) == 21
    assert action.si.shape == action.values.shape == action.normalized.shape == (3, 7)


def test_a_chunk_of_which_some_steps_were_executed(folder):
    policy = Policy.load(folder, decoder='ar', device='cpu', chunk=3)
    seen = Seen([])
    policy._decoder = replace(policy._decoder, acceptance=replace(
        policy._decoder.acceptance, rule=seen))
    first = policy.act(fake_frame(0), INSTRUCTION, executed=2)  # there was none yet
    second = policy.act(fake_frame(1), INSTRUCTION, executed=2)
    policy.act(fake_frame(2), INSTRUCTION, executed=0)
    policy.act(fake_frame(3), INSTRUCTION)
    done = tuple(first.si[1].tolist())
    assert [(it.executed, it.steps, it.previous) for it in seen.situations[:3]] == [
        (2, 0, None), (2, 2, done), (0, 2, done)]
    assert seen.situations[3].steps == 5  # nothing said: all of them
    for wrong in (-1, 4, 1.0, True):
        with pytest.raises(SpecVLAError, match=f'executed is {wrong!r}, must be .* from 0 to 3'):
            policy.act(fake_frame(), INSTRUCTION, executed=wrong)
    assert second.si.shape == (3, 7)


def test_drafters_hear_how_much_of_a_chunk_was_executed_before_the_next(folder):
    class Noting(NoDrafter):
        heard = []

        def remember(self, tokens):
            self.heard.append(len(tokens))

        def note_executed(self, steps):
            self.heard.append(f'{steps} of them')

    policy = Policy.load(folder, decoder='ar', device='cpu', chunk=3)
    policy._decoder = replace(policy._decoder, drafter=Noting())
    for executed in (None, 2, 0, None):
        policy.act(fake_frame(), INSTRUCTION, executed=executed)
    assert Noting.heard == [21, '2 of them', 21, '0 of them', 21, 21]


def test_steps_that_are_said_again_have_thresholds_of_their_own(folder):
    config = DecoderConfig('mine', Component('jacobi'), Component('bins', {'r': 2, 'per_step': 3}))
    policy = Policy.load(folder, decoder=config, device='cpu', chunk=4)
    for firm, bins in ((None, None), (1, '2 5 8 11'), (2, '2 2 5 8'), (4, None), (9, None)):
        trace = policy.act(fake_frame(), INSTRUCTION, firm_steps=firm).trace
        assert trace.reason == (f'bins by step: {bins}' if bins else '')
        by_step = [int(most) for most in (bins or '2 2 2 2').split()]
        assert trace.reach == tuple(
            0 if place == 6 else most for most in by_step for place in range(7))
    wide = policy.with_decoder(replace(config, rule=Component('bins', {'r': 0, 'per_step': 255})))
    last = 0
    for seed in range(6):
        trace = wide.act(fake_frame(seed), INSTRUCTION, firm_steps=1).trace
        off = np.reshape(trace.bins_off, (4, 7)).any(axis=1)
        assert trace.firm_steps == (int(off.argmax()) if off.any() else None)
        last += off.any()
    assert last and wide.act(fake_frame(), INSTRUCTION).trace.firm_steps is None
    for wrong in (0, -1, 2.0, True):
        with pytest.raises(SpecVLAError, match=f'firm_steps is {wrong!r}, must be a whole number'):
            policy.act(fake_frame(), INSTRUCTION, firm_steps=wrong)
    strict = policy.with_decoder('jacobi').act(fake_frame(), INSTRUCTION, firm_steps=1)
    assert strict.trace.reason == '' and set(strict.trace.reach) == {0}


def test_a_chunk_that_takes_long_to_execute_is_no_gap(folder):
    """10 periods of 50 ms after the last step: 11 steps end 0.5 s after the image they answer."""
    policy = Policy.load(folder, decoder='ar', device='cpu', chunk=12)
    for executed, gap, follows in ((11, 0.99, True), (11, 1.01, False), (1, 0.51, False)):
        policy.reset()
        policy.act(fake_frame(0), INSTRUCTION, 5.0)
        assert policy._goes_on(INSTRUCTION, 5.0 + gap, executed) == follows


@pytest.mark.parametrize('said', [{'chunk': 3}, {'chunk': 3, 'execute_steps': 2}])
def test_a_folder_says_itself_how_many_steps_an_action_has(folder, tmp_path, said):
    shutil.copytree(folder, tmp_path / 'chunks')
    path = tmp_path / 'chunks' / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    for chunk in (None, 3):
        policy = Policy.load(tmp_path / 'chunks', decoder='ar', device='cpu', chunk=chunk)
        assert policy.action_length == 21
        assert policy.checkpoint.execute_steps == said.get('execute_steps', 3)
        assert policy.with_dataset(KEY).action_length == 21
    for chunk in (1, 2, 8):
        with pytest.raises(SpecVLAError, match=f'chunk is {chunk}, but this checkpoint says .* 3'):
            Policy.load(tmp_path / 'chunks', decoder='ar', device='cpu', chunk=chunk)
    # And goes on saying so where it is saved again.
    policy.checkpoint.model.save_pretrained(tmp_path / 'again')
    content = json.loads((tmp_path / 'again' / 'config.json').read_text())
    assert {key: content.get(key) for key in said} == said


@pytest.mark.parametrize(('said', 'message'), [
    ({'chunk': 0}, 'chunk is 0, must be'), ({'chunk': 65}, 'chunk is 65, must be'),
    ({'chunk': 8.0}, 'chunk is 8.0, must be'), ({'chunk': '8'}, "chunk is '8', must be"),
    ({'chunk': 4, 'execute_steps': 5}, 'execute_steps is 5, must be at most chunk, 4'),
    ({'execute_steps': 2}, 'execute_steps is 2, must be at most chunk, 1')])
def test_a_folder_whose_chunk_can_not_be_is_refused(folder, tmp_path, said, message):
    shutil.copytree(folder, tmp_path / 'chunks')
    path = tmp_path / 'chunks' / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    with pytest.raises(ValueError, match=message):
        Policy.load(tmp_path / 'chunks', decoder='ar', device='cpu')


def test_the_frame_is_mirrored_where_the_data_set_was(policy):
    frame = fake_frame()
    straight = Policy(policy.checkpoint, load_preset('ar'))
    pixels = straight.checkpoint.pixel_values(frame)
    expected = policy.checkpoint.transform(np.ascontiguousarray(frame[:, ::-1]))
    assert torch.equal(pixels[0], expected)
    unmirrored = Checkpoint(policy.checkpoint.model)
    unmirrored.dataset = replace(unmirrored.dataset, mirror_image=False)
    assert torch.equal(unmirrored.pixel_values(frame)[0], policy.checkpoint.transform(frame))


def test_the_prompt_of_an_instruction_is_tokenized_once(folder, monkeypatch):
    policy = Policy.load(str(folder), decoder='ar', device='cpu')
    asked = []
    encode = policy.checkpoint.model.prompt_ids
    monkeypatch.setattr(policy.checkpoint.model, 'prompt_ids',
                        lambda text: asked.append(text) or encode(text))
    for instruction in (INSTRUCTION, INSTRUCTION, 'place it', INSTRUCTION):
        policy.act(fake_frame(), instruction)
    assert asked == [INSTRUCTION, 'place it']


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (np.zeros((64, 64, 3), np.float32), r'image is float32 \[64, 64, 3\], must be a uint8'),
        (np.zeros((64, 64, 4), np.uint8), r'image is uint8 \[64, 64, 4\]'),
        (np.zeros((64, 64), np.uint8), r'image is uint8 \[64, 64\]'),
        (np.zeros((0, 64, 3), np.uint8), r'image is uint8 \[0, 64, 3\]'),
        ([[0]], 'image is list'),
        (None, 'image is NoneType'),
    ],
)
def test_an_image_that_is_none_is_refused_in_one_line(policy, image, message):
    with pytest.raises(ValueError, match=message) as error:
        policy.act(image, INSTRUCTION)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('instruction', ['', '  ', None, 3, ['pick']])
def test_an_instruction_that_is_none_is_refused(policy, instruction):
    with pytest.raises(ValueError, match='instruction is '):
        policy.act(fake_frame(), instruction)


@pytest.mark.parametrize(('key', 'stated', 'jpeg', 'crop_area'), [
    ('libero_object', None, True, 0.9),
    ('bridge_orig', None, True, 1.0),
    ('libero_object', {'jpeg': False, 'crop_area': 1.0}, False, 1.0),  # the checkpoint knows best
    ('bridge_orig', {'jpeg': True, 'crop_area': 0.5}, True, 0.5),
])
def test_frames_are_prepared_as_data_set_and_checkpoint_say(
        tmp_path, key, stated, jpeg, crop_area):
    model = small_model(key)
    model.config = replace(model.config, image_preparation=stated)
    model.save_pretrained(tmp_path)
    checkpoint = Policy.load(tmp_path, decoder='ar', device='cpu').checkpoint
    frame = fake_frame(1)
    shown = frame[:, ::-1] if load_dataset(key).mirror_image else frame
    transform = ImageTransform(28, jpeg=jpeg, crop_area=crop_area)
    expected = transform(np.ascontiguousarray(shown))
    assert torch.equal(checkpoint.pixel_values(frame)[0], expected)


def test_an_action_that_is_not_finite_is_refused():
    model = small_model(statistics=STATISTICS | {'q99': [float('nan')] * 7})
    with pytest.raises(ValueError, match='the action is not finite.*statistics of libero_object'):
        Policy(Checkpoint(model.eval()), load_preset('ar')).act(fake_frame(), INSTRUCTION)


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'decoder': 'fast'}, ValueError, "decoder is 'fast', must be one of"),
        ({'drafter': 'nowhere'}, FileNotFoundError, 'drafter folder nowhere does not exist'),
        ({'unnorm_key': 'bridge'}, ValueError, "unnorm_key is 'bridge', must be one of"),
        ({'device': 'tpu9000'}, ValueError, "device is 'tpu9000', must be 'auto', 'cpu' or"),
        ({'dtype': 'int8'}, ValueError, r"dtype is 'int8', must be one of \['float32', 'bf"),
        ({'quantization': 'int2'}, ValueError, r"quantization is 'int2', must be one of \['none'"),
        ({'quantization': 'int4', 'dtype': 'float16'}, ValueError, 'bfloat16, dtype is float16'),
        ({'chunk': 0}, ValueError, 'chunk 0, both must be at least 1'),
        ({'checkpoint': 'nowhere'}, FileNotFoundError, "checkpoint folder 'nowhere' does not"),
        (
            {'decoder': DecoderConfig('x', Component('none'), Component('bins', {'r': -1}))},
            ValueError,
            'r of the rule bins is -1',
        ),
    ],
)
def test_what_can_not_be_loaded_says_why(folder, options, error, message):
    with pytest.raises(error, match=message):
        Policy.load(options.pop('checkpoint', folder), **{'device': 'cpu'} | options)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_cuda_where_there_is_none(folder):
    with pytest.raises(ValueError, match="device is 'cuda', but torch .* sees no CUDA GPU"):
        Policy.load(folder, device='cuda')
    assert Policy.load(folder, device='auto').checkpoint.model.device.type == 'cpu'


def test_without_a_drafter_folder_only_eagle_is_refused_and_auto_does_without():
    policy = Policy(Checkpoint(small_model().eval()), load_preset('ar'))
    policy.act(fake_frame(), INSTRUCTION)
    with pytest.raises(ValueError, match='no drafter folder; give one, or use the decoder ar'):
        policy.with_decoder('relaxed')
    auto = policy.with_decoder('auto')
    taken = {auto.act(fake_frame(), INSTRUCTION).trace.decoder for _ in range(10)}
    assert {'ar', 'history'} <= taken <= {'ar', 'history', 'jacobi'}


def test_auto_takes_candidates_that_suit_actions_of_several_steps():
    for chunk, candidates in ((None, {'ar', 'history', 'jacobi'}), (2, {'ar', 'jacobi'})):
        policy = Policy(Checkpoint(small_model().eval(), chunk=chunk), load_preset('auto'))
        actions = [policy.act(fake_frame(), INSTRUCTION) for _ in range(8)]
        assert {action.trace.decoder for action in actions} <= candidates
        assert policy.decoder_config.member('jacobi').name == 'jacobi'
        assert ('glance_jacobi left out' in actions[-1].trace.reason) == (chunk == 2)


@pytest.mark.parametrize('dtype', ['bfloat16', torch.float32])
def test_the_data_type_may_be_a_name(folder, dtype):
    policy = Policy.load(folder, device='cpu', dtype=dtype)
    assert str(policy.checkpoint.model.dtype).endswith(str(dtype).removeprefix('torch.'))
    assert len(policy.act(fake_frame(), INSTRUCTION).tokens) == 7
    policy.reset()


def test_actions_of_another_dimension_are_refused():
    model = small_model(statistics={'q01': [0.0] * 8, 'q99': [1.0] * 8})
    with pytest.raises(ValueError, match='libero_object have 8 dimensions, must have 7'):
        Checkpoint(model)


def test_the_gripper_is_0_to_1_whatever_the_data_set_calls_it():
    dataset = replace(load_dataset(KEY), gripper_closed=1.0, gripper_open=-1.0)
    values = np.zeros((4, 7), np.float32)
    values[:, 6] = [1.0, -1.0, 0.5, -1.5]
    np.testing.assert_allclose(to_si(values, dataset)[:, 6], [0.0, 1.0, 0.25, 1.0])


SIXTH = """
from dataclasses import dataclass
import json
from typing import ClassVar

from specvla_ros.decoding.drafters.drafter import Drafter, DRAFTERS
from specvla_ros.decoding.tree import TokenTree


@DRAFTERS.register('sixth')
@dataclass(frozen=True, slots=True)
class Sixth:
    weights: ClassVar[str] = 'sixth'
    shift: int = 0

    @staticmethod
    def read(folder, target):
        return json.loads((folder / 'config.json').read_text())['action']

    def drafter(self, weights):
        return SixthDrafter([token + self.shift for token in weights])


class SixthDrafter(Drafter):
    def __init__(self, action):
        self.action = action

    def guess(self, context):
        return self.propose(context)

    def propose(self, context):
        known = len(context.tokens)
        return TokenTree.chain(self.action[known:known + context.max_depth], 'sixth')
"""
FIFTH = """
from dataclasses import dataclass

from specvla_ros.decoding.rules import RULES


@RULES.register('fifth')
@dataclass(frozen=True, slots=True)
class Fifth:
    mm: float = 1.0

    def reach(self, space, situation):
        if situation.steps == 0:
            return (0,) * space.length
        return tuple(int(self.mm / 1000 / space.bin_si[0]) if position % 7 < 3 else 0
                     for position in range(space.length))
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Give a function that makes presets; a drafter and a rule stand in a file each, no more."""
    for package, name, text in ((drafters, 'sixth', SIXTH), (rules, 'fifth', FIFTH)):
        place = tmp_path / package.__name__
        place.mkdir()
        (place / f'{name}.py').write_text(text)
        # As if the file stood in the package's folder.
        monkeypatch.setattr(package, '__path__', [*package.__path__, str(place)])
    for registry in (drafters.DRAFTERS, rules.RULES):
        monkeypatch.setattr(registry, '_classes', dict(registry._classes))

    def preset(text):
        path = tmp_path / 'own.yaml'
        path.write_text(text)
        return path

    yield preset
    for name in ('decoding.drafters.sixth', 'decoding.rules.fifth'):
        sys.modules.pop(f'specvla_ros.{name}', None)


def test_a_sixth_drafter_and_a_fifth_rule_are_a_file_each(folder, tmp_path, own):
    checkpoint = shutil.copytree(folder, tmp_path / 'checkpoint')
    ar = Policy.load(checkpoint, decoder='ar', device='cpu')
    right = list(ar.act(fake_frame(), INSTRUCTION).tokens)
    decoder = own('drafter: {name: sixth, shift: 2}\nrule: {name: fifth, mm: 20}')
    with pytest.raises(ValueError, match=r'own drafts with sixth, but there is no drafter folder '
                                         r'.*drafters/sixth;.*`specvla train sixth`'):
        Policy.load(checkpoint, decoder=decoder, device='cpu')
    (checkpoint / 'drafters' / 'sixth').mkdir(parents=True)
    (checkpoint / 'drafters' / 'sixth' / 'config.json').write_text(json.dumps({'action': right}))
    policy = Policy.load(checkpoint, decoder=decoder, device='cpu')
    first, second = (policy.act(fake_frame(), INSTRUCTION) for _ in range(2))
    assert list(first.tokens) == right and first.trace.accepted == 0
    # From the second action on, two bins are within 20 mm: they move the arm by 0.8 mm each.
    assert second.trace.accepted >= 3
    assert second.tokens[:3] == tuple(token + 2 for token in right[:3])
    exact = policy.with_decoder(own('drafter: {name: sixth}\nrule: {name: strict}'))
    action = exact.act(fake_frame(), INSTRUCTION)
    assert list(action.tokens) == right and action.trace.target_passes == 1
    relay = policy.with_decoder(own(
        'drafter: {name: history+eagle+sixth, sixth: {shift: 0}}\nrule: {name: strict}'))
    action = relay.act(fake_frame(), INSTRUCTION)
    assert list(action.tokens) == right and set(action.trace.sources) == {'sixth', 'target'}
    assert set(machine.checkpoint_sha256(checkpoint, None)) == {
        'target_sha256', 'drafter_sha256', 'sixth_sha256', 'images'}


@pytest.mark.parametrize(('preset', 'message'), [
    ('drafter: {name: seventh}\nrule: {name: strict}',
     r"drafter is 'seventh', must be one of \['eagle', 'glance', .*, 'sixth'"),
    ('drafter: {name: none}\nrule: {name: sixth}',
     r"rule is 'sixth', must be one of \['bins', 'confidence', 'dynamic', 'fifth', 'phase', 's"),
    ('drafter: {name: none}\nrule: {name: fifth, r: 3}', 'rule fifth has no setting r; it has mm'),
])
def test_their_names_and_settings_are_known_to_errors(preset, message, folder, own):
    with pytest.raises(ValueError, match=message):
        Policy.load(folder, decoder=own(preset), device='cpu')
