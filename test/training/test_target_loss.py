"""The target's loss: the deployed forward, smoothed labels."""

import numpy as np
import pytest
import torch

from specvla_ros.training.shape import new_target
from specvla_ros.training.target_loss import hidden_at, soft_labels
from specvla_ros.training.tokenizer import build_tokenizer, prompt_text
from test.training.conftest import INSTRUCTIONS, TINY


@pytest.fixture(scope='module')
def model():
    tokenizer = build_tokenizer([prompt_text(text) for text in INSTRUCTIONS], 300)
    return new_target(TINY, tokenizer, 300, seed=1).eval()


def test_hidden_at_is_the_models_forward_at_those_positions(model):
    embeds = torch.randn(3, 12, model.config.hidden_size)
    rows = torch.tensor([[4, 5, 6], [0, 2, 11], [9, 10, 11]])
    expected = model(embeds)
    found = hidden_at(model, embeds, rows, torch.zeros(3, 12, dtype=torch.int64))
    picked = torch.stack([expected[i, rows[i]] for i in range(3)])
    torch.testing.assert_close(found, picked, atol=1e-5, rtol=1e-4)


def test_labels_spread_over_neighbouring_bins_and_sum_to_one():
    labels = soft_labels(torch.tensor([[0, 100, 255]]), torch.tensor([2.0, 2.0, 0.0]), 256)
    torch.testing.assert_close(labels.sum(-1), torch.ones(1, 3))
    # exp(-½·(2/2)²): two bins off weighs this share of the middle.
    assert labels[0, 1, 102] / labels[0, 1, 100] == pytest.approx(np.exp(-0.5), rel=1e-5)
    assert labels[0, 1].argmax() == 100
    assert labels[0, 2, 255] == 1  # no width: a hard label


@pytest.mark.parametrize('middle', [128, 200, 245])
def test_a_hand_that_is_unsure_says_the_middle_of_what_it_thinks(middle):
    labels = soft_labels(torch.arange(256)[:, None], torch.tensor([20.0]), 256)[:, 0]
    assert (labels.argmax(-1) == torch.arange(256)).all()
    peaks = labels.max(-1).values
    assert peaks.max() / peaks.min() < 1.15  # of a Gaussian cut at the end it would be 2
    # Unsure by 40 bins; all that is faster than full speed is the last bin.
    edges = torch.distributions.Normal(middle, 40.0).cdf(torch.arange(255) + 0.5)
    thinks = torch.diff(edges, prepend=torch.zeros(1), append=torch.ones(1))
    assert abs((thinks @ labels).argmax() - middle) <= 3  # cut at the end: 215 for 200


def test_the_same_seed_gives_the_same_start(model):
    again = new_target(TINY, model.tokenizer, 300, seed=1)
    other = new_target(TINY, model.tokenizer, 300, seed=2)
    same = [torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters())]
    assert all(same)
    assert not torch.equal(model.lm_head.weight, other.lm_head.weight)


def test_patches_and_words_start_out_of_like_size(model):
    with torch.no_grad():
        patches = model.embed_patches(torch.randn(2, 6, 32, 32)).std()
        words = model.embed_tokens(torch.arange(300)).std()
    assert 0.1 < float(patches / words) < 10
