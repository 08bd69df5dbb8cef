"""Made-up episodes for the reports, and a tiny random checkpoint for what really decodes."""

import io
from pathlib import Path
import sys

import numpy as np
from PIL import Image
import pytest

from specvla_ros.benchmark.episodes.overlay import EpisodeFilm
from specvla_ros.benchmark.records import ActionRecord, Deviation, EpisodeRecord

# Worker processes import the fake players by name: test modules can't be, in importlib mode.
sys.path.append(str(Path(__file__).parent))


def make_action(lengths=(1,) * 6, ms=100.0, tokens=None, deviation=None, drafted=0
                ) -> ActionRecord:
    """One action of seven tokens whose passes after the prefill gained `lengths`."""
    sources = ['target']
    for length in lengths:
        sources += ['eagle'] * (length - 1) + ['target']
    stage_ms = {'preprocess': 5.0, 'vision': 10.0, 'prefill': 40.0, 'draft': 0.0,
                'verify': ms - 55.0, 'total': ms}
    return ActionRecord(
        tokens=tuple(tokens or range(31800, 31807)), target_passes=1 + len(lengths),
        drafted=drafted, accepted=sum(lengths) - len(lengths), acceptance_lengths=tuple(lengths),
        sources=tuple(sources), stage_ms=stage_ms, deviation=deviation)


def make_episode(decoder='ar', task=0, state=0, success=True, crash=None, actions=None
                 ) -> EpisodeRecord:
    actions = actions if actions is not None else (make_action(), make_action())
    return EpisodeRecord('libero_object', task, state, decoder, success, len(actions), crash,
                         tuple(actions))


def make_jpeg(value: int, size: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(buffer, 'JPEG')
    return buffer.getvalue()


def make_film(decoder='ar', n=5, lengths=(1,) * 6, ms=100.0, success=True, crash=None
              ) -> EpisodeFilm:
    actions = [make_action(lengths, ms) for _ in range(n)]
    bins = [[0, 40, 80, 127, 200, 254, 3]] * n
    return EpisodeFilm(decoder, 'none + strict', [make_jpeg(9 * i) for i in range(n)], bins,
                       actions, success, crash, 280)


@pytest.fixture
def make():
    """Hand-over of the makers above: test modules can't import each other."""
    class Makers:
        action, episode, film, jpeg = (staticmethod(f) for f in (
            make_action, make_episode, make_film, make_jpeg))
        deviation = Deviation

    return Makers


@pytest.fixture(scope='session')
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A random OpenVLA of the smallest size with a random drafter, as a published folder."""
    from tokenizers import models, pre_tokenizers, Tokenizer
    import torch
    from transformers import PreTrainedTokenizerFast

    from specvla_ros.decoding.drafters import EagleConfig, EagleHead
    from specvla_ros.libero import suites
    from specvla_ros.openvla.config import OpenVLAConfig
    from specvla_ros.openvla.model import OpenVLA

    prompt = 'In : What action should the robot take to ? Out pick up the milk'.split()
    told = [word for task in suites.tasks('libero_object') for word in task.instruction.split()]
    words = ['<unk>', '<s>', '</s>', *dict.fromkeys([*prompt, *told])]
    vocabulary = {word: i for i, word in enumerate(words + [f'<a{i}>' for i in range(256)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token='<unk>'))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tower = {'hidden_size': 16, 'depth': 2, 'num_heads': 2, 'mlp_size': 32}
    torch.manual_seed(0)
    model = OpenVLA(OpenVLAConfig.from_dict({
        'model_type': 'openvla', 'image_sizes': [28, 28], 'use_fused_vision_backbone': True,
        'vision_config': {'patch_size': 14, 'registers': 4, 'dino': tower, 'siglip': tower},
        'text_config': {'vocab_size': len(vocabulary) + 64, 'hidden_size': 32,
                        'intermediate_size': 64, 'num_hidden_layers': 2,
                        'num_attention_heads': 4, 'max_position_embeddings': 256}}))
    with torch.no_grad():
        model.lm_head.weight.normal_(std=0.5)
        model.lm_head.weight[:len(words)] = 0  # so that most of what it says is an action
    model.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token='<unk>', bos_token='<s>', eos_token='</s>')
    model.norm_stats = {'libero_object': {'action': {
        'q01': [-1.0] * 6 + [0.0], 'q99': [1.0] * 7, 'mask': [True] * 6 + [False]}}}
    folder = tmp_path_factory.mktemp('tiny')
    model.save_pretrained(folder)
    EagleHead(EagleConfig.like(model)).save_pretrained(folder / 'drafter')
    return folder
