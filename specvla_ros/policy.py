"""
Image + instruction → Action: the facade everything outside the decoder uses.

It owns no algorithm. It turns the camera frame the way the data set had it, asks the decoder for
tokens, and turns tokens into metres and radians by the checkpoint's statistics and the data
set's configuration.
"""

from __future__ import annotations

from dataclasses import replace
from math import nan
from pathlib import Path
import time

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from specvla_ros.actions import Action, to_si
from specvla_ros.auto.auto_decoder import AutoDecoder
from specvla_ros.bin_limits import can_forbid, free_bins
from specvla_ros.configuration import DecoderConfig, load_preset
from specvla_ros.data_sets import DatasetConfig
from specvla_ros.decoding.decoder import Decoder
from specvla_ros.decoding.drafters import able
from specvla_ros.decoding.guard import Guard
from specvla_ros.decoding.rules import make_rule
from specvla_ros.decoding.trace import DecodeTrace
from specvla_ros.devices import resolve_device, resolve_dtype
from specvla_ros.drafter_folders import beside, check_given
from specvla_ros.embedded import checkpoint_folder
from specvla_ros.errors import SpecVLAError
from specvla_ros.loaded_checkpoint import Checkpoint
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.policy_source import PolicySource
from specvla_ros.safety import NO_LIMITS, StepLimits
from specvla_ros.safety_guard import EnvelopeGuard, guard_numbers
from specvla_ros.situation import Situation, UNKNOWN

__all__ = ['Action', 'Checkpoint', 'Policy']

# What the robot did longer ago says nothing about what it does now: 0.5 s at LIBERO's 20 Hz.
_MEMORY_PERIODS = 10
# Of prompts, in tokens: LIBERO's instructions make 25 to 45 of Llama-2's. Graphs take steps of 32.
_LONGEST_PROMPT, _PROMPT_STEP = 64, 32
_SHORTEST_INSTRUCTION = 'take action'  # words of every prompt: a small tokenizer knows few others


class Policy:
    """
    A checkpoint under a decoder. Not for two threads at once.

    On a GPU it is warmed up when it is made: the first action is as fast as the others.

    guard: forbids bins, whatever the decoder; None forbids none.
    """

    def __init__(
        self, checkpoint: Checkpoint, config: DecoderConfig, guard: Guard | None = None
    ) -> None:
        self.checkpoint = checkpoint
        self.decoder_config = config = config.of_chunk(checkpoint.space.chunk)
        self.guard = guard
        self._decoder = checkpoint.decoder(config, guard)
        # The same decoder where the envelope of the next step could forbid something.
        envelope = EnvelopeGuard(checkpoint.dataset.rotation, guard)
        self._guarded = self._decoder.guarded(envelope)
        self._instruction: str | None = None
        self._situation = UNKNOWN
        # Before the last action, and its steps [chunk, 7], SI.
        self._last: tuple[Situation, NDArray[np.float32]] | None = None
        if checkpoint.model.device.type == 'cuda':
            self.warm_up()

    @classmethod
    def load(
        cls,
        checkpoint: str | Path | None = None,
        *,
        decoder: str | Path | DecoderConfig = 'auto_relaxed',
        drafter: str | Path | None = None,
        unnorm_key: str | None = None,
        device: str | torch.device = 'auto',
        dtype: str | torch.dtype | None = None,
        quantization: str = 'none',
        chunk: int | None = None,
        guard: Guard | None = None,
    ) -> Policy:
        """
        Load a checkpoint folder.

        checkpoint: folder, or the name of an embedded one; None is the default one. decoder:
        preset name, path of a preset, or its content. drafter: folder of the drafters' weights
        (see ``drafter_folders``); None is the checkpoint's ``drafters``. unnorm_key: None takes
        the only data set there is. device: 'auto' is CUDA where there is one. dtype: 'float32',
        'bfloat16' or 'float16'; None is float32 on the CPU, elsewhere what the checkpoint says.
        quantization: of the Llama's weights, 'none', 'int8' or 'int4'; int4 means bfloat16.
        chunk: control steps per action; None is what the checkpoint says. guard: forbids bins;
        None forbids none.

        Raises ValueError or FileNotFoundError with one clear line.
        """
        return cls.of(
            PolicySource(
                checkpoint=Path(checkpoint) if checkpoint else None,
                drafters=Path(drafter) if drafter else None, unnorm_key=unnorm_key,
                device=str(device), quantization=quantization, chunk=chunk, decoder=decoder,
                dtype=None if dtype is None else str(dtype).removeprefix('torch.')),
            guard)

    @classmethod
    def of(cls, source: PolicySource, guard: Guard | None = None) -> Policy:
        """Load a source; see ``load``."""
        config, folder = _config(source.decoder), checkpoint_folder(source.checkpoint)
        drafters = source.drafters or beside(folder)
        # The cheapest checks first: the weights may take a minute.
        for member in config.all_members:
            make_rule(member.rule.name, member.rule.settings)
        if folder.is_dir():
            check_given(source.drafters)
            able(config, drafters)
        model = OpenVLA.from_pretrained(
            folder, resolve_device(source.device), resolve_dtype(source.dtype),
            source.quantization)
        return cls(Checkpoint(
            model, source.unnorm_key, drafters, source.chunk, folder), config, guard)

    def with_decoder(self, decoder: str | Path | DecoderConfig) -> Policy:
        """Return the same weights and guard under another decoder."""
        return Policy(self.checkpoint, _config(decoder), self.guard)

    def with_dataset(self, unnorm_key: str) -> Policy:
        """Return the same weights and decoder under another data set's statistics."""
        if unnorm_key == self.dataset.unnorm_key:
            return self
        return Policy(self.checkpoint.of_dataset(unnorm_key), self.decoder_config, self.guard)

    @property
    def dataset(self) -> DatasetConfig:
        """What the actions mean on a robot."""
        return self.checkpoint.dataset

    @property
    def chunk(self) -> int:
        """H: control steps of an action."""
        return self.checkpoint.space.chunk

    @property
    def execute_steps(self) -> int:
        """Steps to execute before the next action: what the checkpoint recommends, or all."""
        return self.checkpoint.execute_steps

    @property
    def action_length(self) -> int:
        """L: tokens of an action."""
        return self.checkpoint.space.length

    @property
    def seen(self) -> Tensor | None:
        """The embedded prompt of the last action, [1, P + T, h]; None before the first."""
        return self._decoder.target.prompt

    def note_new_weights(self, weights: object) -> None:
        """Forget what was measured of a drafter: its weights have new numbers from now on."""
        self._decoder.note_new_weights(weights)

    def warm_up(self) -> None:
        """Run each kind of pass once, with prompts of the usual lengths: graphs are captured."""
        config, device = self.checkpoint.model.config, self.checkpoint.model.device
        image = torch.zeros(1, 6, config.image_size, config.image_size, device=device)
        shortest = len(self.checkpoint.model.prompt_ids(_SHORTEST_INSTRUCTION))
        lengths = [*range(_LONGEST_PROMPT, shortest, -_PROMPT_STEP), shortest]
        guarded = replace(UNKNOWN, limits=guard_numbers(
            NO_LIMITS, self.checkpoint.bin_values, self.checkpoint.space.chunk))
        # Twice: should a cache grow on the way, what was captured before is captured again.
        for length in 2 * lengths:
            ids = torch.full((1, length), config.text_config.bos_token_id, device=device)
            self._decoder.warm_up(ids, image)
            self._guarded.warm_up(ids, image, guarded)
        self.reset()

    def reset(self) -> None:
        """Forget earlier actions: a new episode begins, or the last action was not executed."""
        self._decoder.reset()
        self._instruction, self._situation, self._last = None, UNKNOWN, None

    def act(
        self, image: NDArray[np.uint8], instruction: str, stamp: float | None = None,
        eef_position: tuple[float, float, float] | None = None, limits: StepLimits | None = None,
        executed: int | None = None, firm_steps: int | None = None,
    ) -> Action:
        """
        Decode the action for a camera frame.

        image: uint8 [H, W, 3] RGB, top row first, of any size. instruction: a sentence.
        stamp: when the frame was taken, s on any clock; None = right after the last one. Drafters
        forget earlier actions at a new instruction, a gap of more than 10 control periods of the
        data set after the last step executed, or a clock that goes back.
        eef_position: of the end effector, m, for rules and guards that ask for it; None = unknown.
        limits: of the next control step, see ``safety.step_limits``: bins outside are neither
        accepted nor chosen. What it can't resolve into bins is left to ``safety.fit``. None = all.
        executed: of the last action's steps, how many belong to times before this frame, and were
        executed or missed; None = all of them.
        firm_steps: of this action's steps, how many are executed before the next action says the
        others again: a rule may accept more for those (``per_step``); None = all.
        Raises ValueError if one is not of that form, or if the action is not finite.
        """
        if not isinstance(instruction, str):
            raise SpecVLAError(f'instruction is {instruction!r}, must be a string')
        started = time.perf_counter()
        if not self._goes_on(instruction, stamp, self.chunk if executed is None else executed):
            self.reset()
        self._instruction = instruction
        self._situation = replace(
            self._situation_after(executed), stamp=stamp, eef_position=eef_position,
            executed=executed, firm_steps=self._firm(firm_steps))
        if executed is not None:
            self._decoder.note_executed(executed)
        decoder, situation = self._within(limits)
        prompt_ids = self.checkpoint.prompt_ids(instruction)
        pixel_values = self.checkpoint.pixel_values(image)
        preprocessed = time.perf_counter()
        tokens, trace = decoder.decode(prompt_ids, pixel_values, situation)
        trace.stage_ms = {
            'preprocess': 1e3 * (preprocessed - started),
            **trace.stage_ms,
            # The tokens are on the host, so the device is done: no need to wait for it.
            'total': 1e3 * (time.perf_counter() - started),
        }
        self._note_steps(trace)
        action = self._action(tokens, trace)
        self._decoder.remember(tokens)
        self._last = replace(self._situation, risk=trace.risk), action.si
        self._situation = self._last[0].after(action.si.tolist())
        return action

    def _situation_after(self, executed: int | None) -> Situation:
        """Return the situation after the first ``executed`` steps of the last action."""
        most = self.checkpoint.space.chunk
        if executed is not None and (type(executed) is not int or not 0 <= executed <= most):
            raise SpecVLAError(f'executed is {executed!r}, must be a whole number from 0 to '
                               f'{most}, the steps of an action')
        if executed is None or self._last is None:
            return self._situation
        before, said = self._last
        return before.after(said[:executed].tolist())

    def _firm(self, steps: int | None) -> int | None:
        """Return how many steps are firm; None where all are, as without a chunk."""
        if steps is not None and (type(steps) is not int or steps < 1):
            raise SpecVLAError(f'firm_steps is {steps!r}, must be a whole number from 1 on, the '
                               'steps that are executed before the next action; or None')
        return None if steps is None or steps >= self.chunk else steps

    def _note_steps(self, trace: DecodeTrace) -> None:
        """Note the reach of each step, and which may be executed, where it is not alike."""
        size = self.checkpoint.space.action_dim
        steps = [slice(first, first + size) for first in range(0, len(trace.reach), size)]
        first = trace.reach[steps[0]]
        if self._situation.firm_steps is None or all(trace.reach[it] == first for it in steps):
            return
        bins = ' '.join(str(max(trace.reach[it])) for it in steps)
        trace.reason = '; '.join(filter(None, (trace.reason, f'bins by step: {bins}')))
        trace.firm_steps = next((number for number, step in enumerate(steps) if any(
            off is not None and off > most
            for off, most in zip(trace.bins_off[step], first, strict=True))), None)

    def _within(self, limits: StepLimits | None) -> tuple[Decoder | AutoDecoder, Situation]:
        """Return a decoder that keeps to these limits, and the situation that tells it them."""
        bins, chunk = self.checkpoint.bin_values, self.checkpoint.space.chunk
        if limits is None or not can_forbid(limits, bins, chunk):
            return self._decoder, self._situation
        # Of a chunk the later steps depend on what is said; and another guard may forbid more.
        free = free_bins(limits, bins) if chunk == 1 and self.guard is None else ()
        return self._guarded, replace(
            self._situation, limits=guard_numbers(limits, bins, chunk), free_bins=free)

    def _goes_on(self, instruction: str, stamp: float | None, executed: int) -> bool:
        """Whether this action follows the last one closely, on the same errand."""
        if instruction != self._instruction:
            return False
        before = self._situation.stamp
        if stamp is None or before is None:
            return True
        # After the last of the steps that were executed: of a chunk they take their time.
        most = _MEMORY_PERIODS + max(executed - 1, 0)
        return 0 <= stamp - before <= most * self.dataset.period_s

    def _action(self, tokens: list[int], trace: DecodeTrace) -> Action:
        """Tokens → normalised → data-set units → SI."""
        space, statistics = self.checkpoint.space, self.checkpoint.statistics
        ids = np.array(tokens).reshape(space.chunk, space.action_dim)
        normalized = space.tokenizer.decode(ids)
        values = statistics.unnormalize(normalized)
        if not np.isfinite(values).all():
            raise SpecVLAError(
                f'the action is not finite: {values.tolist()}; check the statistics of '
                f'{self.dataset.unnorm_key} in the checkpoint'
            )
        worth = space.chunk * space.bin_si
        trace.si_off = [nan if off is None else off * bin_si
                        for off, bin_si in zip(trace.bins_off, worth, strict=True)]
        return Action(tuple(tokens), normalized, values, to_si(values, self.dataset), trace)


def _config(decoder: str | Path | DecoderConfig) -> DecoderConfig:
    """Preset by name or path, unless it is one already."""
    return decoder if isinstance(decoder, DecoderConfig) else load_preset(decoder)
