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
