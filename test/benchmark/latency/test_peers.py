"""transformers' generate as a peer: the same weights, the same tokens."""

import numpy as np
import pytest
import torch

from specvla_ros.benchmark.latency.peers import causal_lm, GeneratePeer, GENERATIONS
from specvla_ros.benchmark.observations import made_up
from specvla_ros.policy import Policy

INSTRUCTION = 'pick up the milk'


@pytest.fixture(scope='module')
def policy(tiny_checkpoint):
    policy = Policy.load(tiny_checkpoint, decoder='ar', device='cpu')
    # float64: no near-tie falls another way for another order of summation.
    model = policy.checkpoint.model.double().requires_grad_(False)
    model.lm_head.weight[model.action_tokenizer.vocab_size:] = 0  # padding never wins
    return policy.with_decoder('ar')


@pytest.mark.parametrize('name', ['generate', 'generate-sdpa'])
def test_a_peer_gives_the_tokens_of_ar(policy, name):
    peer = GeneratePeer(policy.checkpoint, GENERATIONS[name])
    for frame in made_up(4).frames:
        ours, theirs = policy.act(frame, INSTRUCTION), peer.act(frame, INSTRUCTION)
        assert theirs.tokens == ours.tokens
        assert np.array_equal(theirs.si, ours.si)


def test_a_text_token_that_wins_is_told_as_it_is(policy, monkeypatch):
    model, frame = policy.checkpoint.model, made_up(1).frames[0]
    first = policy.act(frame, INSTRUCTION).tokens[0]
    louder = model.lm_head.weight.clone()
    louder[5] = 2 * louder[first]
    monkeypatch.setattr(model.lm_head, 'weight', torch.nn.Parameter(louder, requires_grad=False))
    peer = GeneratePeer(policy.checkpoint, GENERATIONS['generate'])
    assert peer.act(frame, INSTRUCTION).tokens[0] == 5
    assert policy.act(frame, INSTRUCTION).tokens[0] == first


def test_a_peer_computes_on_the_same_memory(policy):
    model = policy.checkpoint.model
    llama = causal_lm(model, 'eager')
    assert llama.lm_head.weight.data_ptr() == model.lm_head.weight.data_ptr()
    ours, theirs = (dict(module.named_parameters()) for module in
                    (model.language_model, llama.model))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in ours)


def test_a_peers_stages_add_up_to_its_time(policy):
    peer = GeneratePeer(policy.checkpoint, GENERATIONS['generate'])
    stages = peer.act(made_up(1).frames[0], INSTRUCTION).trace.stage_ms
    assert list(stages) == ['preprocess', 'vision', 'generate', 'total']
    parts = sum(ms for name, ms in stages.items() if name != 'total')
    assert 0 < parts <= stages['total'] and min(stages.values()) > 0
