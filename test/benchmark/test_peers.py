"""transformers' generate as a peer: the same weights, the same tokens."""

import numpy as np
import pytest

from specvla_ros.benchmark.observations import made_up
from specvla_ros.benchmark.peers import causal_lm, GeneratePeer, GENERATIONS
from specvla_ros.policy import Policy

INSTRUCTION = 'pick up the milk'


@pytest.fixture(scope='module')
def policy(tiny_checkpoint):
    policy = Policy.load(tiny_checkpoint, decoder='ar', device='cpu')
    # float64: no near-tie falls another way for another order of summation.
    policy.checkpoint.model.double()
    return policy.with_decoder('ar')


@pytest.mark.parametrize('name', ['generate', 'generate-sdpa'])
def test_a_peer_gives_the_tokens_of_ar_wherever_they_are_actions(policy, name):
    peer = GeneratePeer(policy.checkpoint, GENERATIONS[name])
    is_action, compared = policy.checkpoint.layout.tokenizer.is_action, 0
    for frame in made_up(12).frames:
        ours, theirs = policy.act(frame, INSTRUCTION), peer.act(frame, INSTRUCTION)
        assert len(theirs.tokens) == policy.action_length
        if all(map(is_action, theirs.tokens)):
            assert theirs.tokens == ours.tokens
            assert np.array_equal(theirs.si, ours.si)
            compared += 1
    assert compared


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
