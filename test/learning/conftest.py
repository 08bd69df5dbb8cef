"""A stream of actions that another head than the loaded one would guess right."""

import numpy as np
import pytest
import torch

from specvla_ros.decoding.drafters import GlanceConfig, GlanceHead
from specvla_ros.learning import shadow
from specvla_ros.learning.learner import Learner
from specvla_ros.learning.settings import LearnerSettings


def made_head(seed):
    """A random head of few bins; its guesses depend on what is seen."""
    torch.manual_seed(seed)
    head = GlanceHead(GlanceConfig(
        hidden_size=8, patches=3, bins=6, length=7, rank=2, width=16, shapes=8))
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=2 * parameter.shape[1] ** -0.5)
    return head.eval().requires_grad_(False)


class World:
    """
    A learner, and a robot that sees one of a few things, and says what a head would.

    truth: the head whose guesses the target says.
    """

    def __init__(self, **settings):
        self.head, self.other = made_head(0), made_head(1)
        self.other.mixture.weight.zero_()  # says the same whatever it sees: soon learned
        self.settings = LearnerSettings(**{'actions': 200, 'window': 40} | settings)
        self.learner = Learner(self.head, self.settings)
        self.truth, self.sequence, self.changes = self.head, 0, []
        self.random = np.random.default_rng(0)
        self.seen = self.random.normal(size=(24, 8)).astype(np.float16)

    def said(self, head, features):
        with torch.no_grad():
            return head.guess(torch.from_numpy(features.astype(np.float32))).argmax(-1).numpy()

    def take(self):
        """Let the robot do one action."""
        self.sequence += 1
        if change := self.learner.carry_out(self.sequence):
            self.changes.append(change)
        features = self.seen[[self.random.integers(len(self.seen))]]
        self.learner.take(features[0], self.said(self.truth, features)[0].astype(np.int16))

    def act(self, count):
        """Let the robot act, with time to learn after each action."""
        for _ in range(count):
            self.take()
            while self.learner.has_work:
                self.learner.step()

    def right(self):
        """Share of all that can be seen which the head in use guesses right."""
        return float((self.said(self.head, self.seen) == self.said(self.truth, self.seen)).mean())


@pytest.fixture
def make_world(monkeypatch):
    monkeypatch.setattr(shadow, '_RATE', 1e-2)  # a test shall not take thousands of steps
    return World
