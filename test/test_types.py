"""The type checker catches what it is there for: things that are not what they are passed as."""
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAD = """
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from specvla_ros.benchmark.environment import Environment
from specvla_ros.benchmark.policy_like import PolicyLike
from specvla_ros.benchmark.records import ActionRecord
from specvla_ros.decoding.drafters.drafter import DRAFTERS
from specvla_ros.libero.environment import LiberoEnv
from specvla_ros.actions import Action
from specvla_ros.policy import Policy
from specvla_ros.steps import StepQueue


class Forgetful:
    def reset(self) -> None:
        pass


class Peer(Forgetful):
    def act(self, image: NDArray[np.uint8], instruction: str, stamp: float | None = None, *,
            executed: int | None = None) -> Action:
        raise NotImplementedError


class WithoutStamp(Forgetful):  # the replay of a bag gives a stamp
    def act(self, image: NDArray[np.uint8], instruction: str) -> Action:
        raise NotImplementedError


class OfTokens(Forgetful):
    def act(self, image: NDArray[np.uint8], instruction: str, stamp: float | None = None
            ) -> list[int]:
        raise NotImplementedError


class NeedsPosition(Forgetful):
    def act(self, image: NDArray[np.uint8], instruction: str, stamp: float | None = None, *,
            position: float) -> Action:
        raise NotImplementedError


class DrafterOfNothing:
    weights: ClassVar[str | None] = None

    def drafter(self, weights: None) -> int:
        raise NotImplementedError


def use(policy: Policy, peer: Peer, without_stamp: WithoutStamp, of_tokens: OfTokens,
        needs_position: NeedsPosition, action: Action, queue: StepQueue[float],
        environment: LiberoEnv) -> None:
"""
# A line of the body, and a part of what mypy says of it; None = nothing.
LINES = [
    ('a: PolicyLike = policy', None),
    ('b: PolicyLike = peer', None),
    ('c: Environment = environment', None),
    ('d: PolicyLike = without_stamp', 'incompatible type'),
    ('e: PolicyLike = of_tokens', 'incompatible type'),
    ('f: PolicyLike = needs_position', 'incompatible type'),
    ('ActionRecord.of(action.tokens, action.trace)', None),
    ('ActionRecord.of(action.tokens, action)', 'has incompatible type'),
    ('action.trace.target_passs', 'has no attribute'),
    ('policy.act("pick up", "the milk")', 'has incompatible type'),
    ('policy.checkpoint.pixel_values("a.png")', 'has incompatible type'),
    ('queue.put([1.0], 0.0)', None),
    ('queue.put(["1.0"], 0.0)', 'incompatible type'),
    ('DRAFTERS.register("nothing")(DrafterOfNothing)', 'has incompatible type'),
]


@pytest.fixture(scope='module')
def said(tmp_path_factory) -> dict[int, str]:
    """Return what mypy says, by line, with the settings of `make lint`."""
    file = tmp_path_factory.mktemp('types') / 'wrong_types.py'
    file.write_text(HEAD + ''.join(f'    {line}\n' for line, _ in LINES))
    found = subprocess.run(
        [sys.executable, '-m', 'mypy', '--config-file', ROOT / 'pyproject.toml', file],
        cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1, found.stdout + found.stderr
    errors = [line.split(':', 2) for line in found.stdout.splitlines() if ': error: ' in line]
    # By name: of the same content mypy's cache knows the place of the run before.
    assert {Path(path).name for path, _, _ in errors} == {file.name}, found.stdout
    assert min(int(line) for _, line, _ in errors) > HEAD.count('\n'), found.stdout
    return {int(line): text for _, line, text in errors}


@pytest.mark.parametrize('number', range(len(LINES)), ids=[line for line, _ in LINES])
def test_types(number, said):
    error = said.get(HEAD.count('\n') + 1 + number)
    expected = LINES[number][1]
    assert error is None if expected is None else expected in (error or 'nothing').lower()


def test_any_is_for_what_has_no_type():
    """Actions, traces, environments, records and policies never pass as `Any`."""
    names = ('action', 'trace', 'environment', 'record', 'actor', 'policy', 'reference', 'delta')
    wrong = [f'{path.relative_to(ROOT)}: {line.strip()}'
             for path in sorted((ROOT / 'specvla_ros').rglob('*.py'))
             if path.relative_to(ROOT / 'specvla_ros').parts[0] not in ('nodes', 'training')
             for line in path.read_text().splitlines()
             if any(f'{name}: Any' in line for name in names)]
    assert not wrong, wrong
