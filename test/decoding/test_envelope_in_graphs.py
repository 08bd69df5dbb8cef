"""The safety envelope as a guard of the loop: in graphs as without, strict as ar."""

from dataclasses import replace

import numpy as np
import pytest

from specvla_ros.bin_limits import BinValues
from specvla_ros.decoding.drafters import Jacobi, NoDrafter
from specvla_ros.decoding.rules.bins import Bins
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.safety import step_limits
from specvla_ros.safety_guard import EnvelopeGuard, guard_numbers
from specvla_ros.safety_settings import SafetySettings
from specvla_ros.situation import Situation

ARM = SafetySettings.read('safety_arm')


def situations(chunk, rotation):
    """An arm at rest, one under way beside a wall, and another envelope."""
    lines = np.linspace(-1, 1, 255)[:, None] * ([0.04] * 3 + [0.1] * 3)
    bins = BinValues.of(lines, rotation)
    wide = replace(ARM, step_translation_m=0.05, speed_m_s=1.0, acceleration_m_s2=20.0)
    for settings, known in (
            (ARM, {}), (ARM, {'position_m': (0.5, 0.398, 0.1), 'previous': [0.004] * 7}),
            (wide, {'position_m': (0.26, 0.0, 0.3)})):
        limits = step_limits(settings, 0.05, **known)
        yield Situation(limits=guard_numbers(limits, bins, chunk))


@pytest.mark.parametrize('rotation', ['rotation_vector', 'euler_xyz'])
@pytest.mark.parametrize('chunk', [1, 2])
def test_the_envelope_is_the_same_in_graphs_and_a_change_of_it_captures_nothing(
    chunk, rotation, lab
):
    it, guard = lab(1, 7, chunk), EnvelopeGuard(rotation)
    ar = it.decoder(NoDrafter(), Strict(), 'plain', guard)
    free, captures = it.ar(), set()
    for rule in (Strict(), Bins(9, False)):
        graphs, plain = (it.decoder(Jacobi().drafter(None), rule, runner, guard)
                         for runner in ('graphs', 'plain'))
        for situation in 2 * list(situations(chunk, rotation)):
            tokens, trace = graphs.decode(*it.prompt, situation)
            other, expected = plain.decode(*it.prompt, situation)
            assert (tokens, trace.forbidden) == (other, expected.forbidden)
            if rule == Strict():
                assert tokens == ar.decode(*it.prompt, situation)[0] != free
                assert trace.forbidden
        before = graphs.target.runner.captures
        for situation in situations(chunk, rotation):
            graphs.decode(*it.prompt, situation)
        captures.add(graphs.target.runner.captures - before)
    assert captures == {0}
