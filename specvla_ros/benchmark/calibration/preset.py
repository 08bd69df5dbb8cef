"""The preset that a calibration writes: what was promised, and on what it was measured."""

from __future__ import annotations

from collections.abc import Sequence
import textwrap
import time
from typing import Any

import yaml

from specvla_ros import __version__, files
from specvla_ros.benchmark import run_folder
from specvla_ros.benchmark.calibration import family
from specvla_ros.benchmark.calibration.plan import CalibrationPlan
from specvla_ros.benchmark.calibration.units import Unit
from specvla_ros.components import Component
from specvla_ros.configuration import DecoderConfig
from specvla_ros.hashing import file_sha256

_WIDTH = 97


def write_preset(plan: CalibrationPlan, chosen: DecoderConfig, notes: list[str]) -> None:
    """
    Write the preset file, whole or not at all.

    :param chosen: the decoder with its final thresholds, and the weights it is calibrated for
    :param notes: sentences for its head
    """
    content: dict[str, Any] = {'drafter': _entry(chosen.drafter), 'rule': _entry(chosen.rule)}
    if chosen.strict_above_risk < 1:
        content['strict_above_risk'] = chosen.strict_above_risk
    content['calibrated'] = dict(chosen.calibrated)
    head = [line for note in notes for line in textwrap.wrap(note, _WIDTH)]
    text = ''.join(f'# {line}\n' for line in head) + yaml.safe_dump(content, sort_keys=False)
    with files.writing(plan.preset):
        plan.preset.parent.mkdir(parents=True, exist_ok=True)
    with files.whole_file(plan.preset) as temporary:
        temporary.write_text(text, encoding='utf-8')


def notes(
    plan: CalibrationPlan, chosen: DecoderConfig, scale: float, units: Sequence[Unit]
) -> list[str]:
    """Return what the head of a preset says."""
    args = plan.args
    bags = [bag.sha256[:16] for bag in getattr(plan.source, 'bags', ())]
    limit = args.max_steps or "the suite's own number of"
    where = (f'{len(bags)} recorded bags (sha256 {", ".join(bags)}), whose states are those of '
             'the recording' if bags else
             f'{args.suite}, tasks {" ".join(map(str, plan.config["tasks"]))}, random starts from '
             f'seed {args.seed}, at most {limit} control steps each, '
             f'driven under scale {args.drive:g}')
    weights = ', '.join(f'{name} {value[:16]}' for name, value in chosen.calibrated.items())
    return [
        f'{promise_in_words(plan)}.',
        f'Calibrated {time.strftime("%Y-%m-%d")} by specvla {__version__}, by conformal risk '
        f'control with a confidence of {args.confidence:g}, on {len(units)} episodes '
        f'({sum(unit.frames for unit in units)} frames) of {where}; what was measured has sha256 '
        f'{file_sha256(plan.folder / run_folder.EPISODES)[:16]}.',
        f'Scale {scale:g} of {plan.base.name}: {family.in_words(family.thresholds(chosen))}. '
        f'Weights: {weights}; dtype {args.dtype or "as the device has it"}, '
        f'quantization {args.quantization}, chunk {args.chunk}.',
        'It holds for episodes like those: another camera, scene, arm, task or checkpoint voids '
        'it. Calibrate again then.',
    ]


def promise_in_words(plan: CalibrationPlan) -> str:
    """Say what is promised."""
    args = plan.args
    off = (f"more than {args.mm:g} mm, {args.deg:g} degrees or {args.gripper:g} of the gripper's "
           "way from the target's own")
    if args.promise == 'episodes':
        share = f'{100 * (1 - args.delta):g} %'
        return f'In at least {share} of the episodes no accepted action is {off}'
    return (f"Of an episode's accepted actions at most {100 * args.delta:g} %, in the mean over "
            f'episodes, are {off}')


def _entry(component: Component) -> dict[str, Any]:
    return {'name': component.name, **component.settings, **component.by_device}
