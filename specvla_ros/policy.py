"""
Image + instruction → Action: the facade everything outside the decoder uses.

It owns no algorithm. It turns the camera frame the way the data set had it, asks the decoder for
tokens, and turns tokens into metres and radians by the checkpoint's statistics and the data
set's configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import nan
from pathlib import Path
import time

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from specvla_ros.action_space import ActionSpace
from specvla_ros.bin_limits import BinValues, can_forbid
from specvla_ros.calibrated import check_calibrated
from specvla_ros.configuration import (
    Component,
    DatasetConfig,
    DecoderConfig,
    ImagePreparation,
    load_dataset,
    load_preset,
)
from specvla_ros.decoding.acceptance import Acceptance, Guard
from specvla_ros.decoding.auto import AutoDecoder
from specvla_ros.decoding.completion import NONE, Predicted
from specvla_ros.decoding.decoder import Decoder
from specvla_ros.decoding.drafters import able, Drafter, learned, make_drafter
from specvla_ros.decoding.rules import make_rule
from specvla_ros.decoding.target import Target
from specvla_ros.decoding.trace import DecodeTrace
from specvla_ros.drafter_folders import beside, check_given, weights_folder
from specvla_ros.embedded import checkpoint_folder
from specvla_ros.errors import SpecVLAError
from specvla_ros.openvla.action_tokenizer import ActionStatistics, ActionTokenizer
from specvla_ros.openvla.config import OpenVLAConfig
from specvla_ros.openvla.image_transform import mirrored
from specvla_ros.openvla.model import OpenVLA
from specvla_ros.policy_source import PolicySource
from specvla_ros.rotation import rotation_vectors
from specvla_ros.safety import NO_LIMITS, StepLimits
from specvla_ros.safety_guard import EnvelopeGuard, guard_numbers
from specvla_ros.situation import Situation, UNKNOWN

# What the robot did longer ago says nothing about what it does now: 0.5 s at LIBERO's 20 Hz.
_MEMORY_PERIODS = 10
# Of prompts, in tokens: LIBERO's instructions make 25 to 45 of Llama-2's. Graphs take steps of 32.
_LONGEST_PROMPT, _PROMPT_STEP = 64, 32
_SHORTEST_INSTRUCTION = 'take action'  # words of every prompt: a small tokenizer knows few others
_RECENT = 10  # control steps that a situation remembers: half a second at LIBERO's 20 Hz
_SI_DIMENSIONS = 7  # translation, rotation vector, gripper
_DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


@dataclass(frozen=True, slots=True)
class Action:
    """
    One decoded action of ``chunk`` control steps.

    tokens: the L ids, step by step; normalized: float32 [chunk, D] in [-1, 1].
    values: float32 [chunk, D] in the data set's units.
    si: float32 [chunk, 7]: translation (m), rotation vector (rad), gripper (0 closed … 1 open),
        in the frame the data set's configuration names.
    trace: what it cost, and what each token is: chosen, accepted (how far off), unverified;
        ``stage_ms`` has preprocess and total as well.
    """

    tokens: tuple[int, ...]
    normalized: NDArray[np.float32]
    values: NDArray[np.float32]
    si: NDArray[np.float32]
    trace: DecodeTrace


class Checkpoint:
    """
    Loaded weights and what belongs to them: everything that decoders share.

    unnorm_key: data set whose statistics hold; None takes the only one there is.
    drafters: folder of the drafters' weights, see ``drafter_folders``; they are read when the
        first decoder needs them. None = there are none.
    chunk: control steps per action; None = as many as the checkpoint says, else one.
    folder: of the target's files, by which a calibrated decoder is known; None = there is none.
    Raises ValueError if the key is unknown, the data set's actions are not of 7 dimensions, or the
    checkpoint says actions of another chunk.
    """

    def __init__(
        self,
        model: OpenVLA,
        unnorm_key: str | None = None,
        drafters: Path | None = None,
        chunk: int | None = None,
        folder: Path | None = None,
    ) -> None:
        self.model = model
        self.drafters = drafters
        self.folder = folder
        self._drafter_weights: dict[str, object] = {}
        self.statistics: ActionStatistics = model.action_statistics(unnorm_key)
        self.dataset: DatasetConfig = load_dataset(unnorm_key or next(iter(model.norm_stats)))
        check_dimensions(self.statistics, self.dataset.unnorm_key)
        tokenizer = model.action_tokenizer
        self.space = ActionSpace(
            tokenizer, _SI_DIMENSIONS, action_chunk(model.config, chunk),
            bin_si(self.statistics, self.dataset, tokenizer.n_bins))
        self.bin_values = bin_values(self.statistics, self.dataset, tokenizer)
        self.preparation = image_preparation(model, self.dataset)
        self.transform = model.image_transform(
            jpeg=self.preparation.jpeg, crop_area=self.preparation.crop_area)
        self.prompt_ids = lru_cache(maxsize=64)(self._prompt_ids)

    @property
    def execute_steps(self) -> int:
        """Steps to carry out before the next action: what the checkpoint recommends, or all."""
        return self.model.config.execute_steps or self.space.chunk

    def of_dataset(self, unnorm_key: str) -> Checkpoint:
        """Return the same weights, the drafters' too, under another data set's statistics."""
        other = Checkpoint(
            self.model, unnorm_key, self.drafters, self.space.chunk, self.folder)
        other._drafter_weights = self._drafter_weights
        return other

    def drafter_weights(self, name: str) -> object:
        """Weights of a drafter, read when they are asked for first."""
        if name not in self._drafter_weights:
            folder = self.drafters and weights_folder(self.drafters, name)
            self._drafter_weights[name] = learned()[name].read(folder, self.model)
        return self._drafter_weights[name]

    def decoder(
        self, config: DecoderConfig, guard: Guard | None = None
    ) -> Decoder | AutoDecoder:
        """
        Return a decoder on these weights, with caches of its own; guard: None forbids no bin.

        Of a decoder with candidates those without weights are left out.
        """
        members, missing = able(config, self.drafters)
        for member in members:
            check_calibrated(member, self.folder, self.drafters, self.dataset.unnorm_key)
        target = Target(self.model)
        decoders = {it.name: self._on(target, it, guard) for it in members}
        return AutoDecoder(decoders, missing) if config.candidates else decoders[config.name]

    def _on(self, target: Target, config: DecoderConfig, guard: Guard | None) -> Decoder:
        """Make a decoder of one drafter on a target."""
        drafter, completion = self._drafter(config.drafter), NONE
        if config.completion is not None:
            completion = Predicted(config.completion, self._drafter(config.completion.drafter))
        rule = make_rule(config.rule.name, config.rule.settings)
        return Decoder(target, drafter, Acceptance(
            rule, guard, self.space, target, config.strict_above_risk), completion)

    def _drafter(self, component: Component) -> Drafter:
        return make_drafter(
            component.name,
            component.settings_on(self.model.device.type),
            {name: partial(self.drafter_weights, name) for name in learned()})

    def pixel_values(self, image: NDArray[np.uint8]) -> Tensor:
        """Pixel values [1, 6, size, size] of a camera frame uint8 [H, W, 3]."""
        return self.transform(mirrored(image) if self.dataset.mirror_image else image)[None]

    def _prompt_ids(self, instruction: str) -> Tensor:
        """Prompt ids [1, T]; an episode asks with the same instruction hundreds of times."""
        ids = self.model.prompt_ids(instruction)[None]
        config, length = self.model.config, self.space.length
        positions = config.text_config.max_position_embeddings
        most = positions - config.n_patches - length
        if ids.shape[1] > most:  # beyond them attention was never trained, and takes seconds
            raise SpecVLAError(
                f'the instruction has {len(instruction)} characters and makes a prompt of '
                f'{ids.shape[1]} tokens, must be at most {most}: of the {positions} positions of '
                f'this model the image takes {config.n_patches}, the action {length}'
            )
        return ids


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
        self.decoder_config = config
        self.guard = guard
        self._decoder = checkpoint.decoder(config, guard)
        # The same decoder where the envelope of the next step could forbid something.
        envelope = EnvelopeGuard(checkpoint.dataset.rotation, guard)
        self._fenced = self._decoder.guarded(envelope)
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
        for member in config.members:
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
    def action_length(self) -> int:
        """L: tokens of an action."""
        return self.checkpoint.space.length

    def warm_up(self) -> None:
        """Run each kind of pass once, with prompts of the usual lengths: graphs are captured."""
        config, device = self.checkpoint.model.config, self.checkpoint.model.device
        image = torch.zeros(1, 6, config.image_size, config.image_size, device=device)
        shortest = len(self.checkpoint.model.prompt_ids(_SHORTEST_INSTRUCTION))
        lengths = [*range(_LONGEST_PROMPT, shortest, -_PROMPT_STEP), shortest]
        fenced = replace(UNKNOWN, limits=guard_numbers(
            NO_LIMITS, self.checkpoint.bin_values, self.checkpoint.space.chunk))
        # Twice: should a cache grow on the way, what was captured before is captured again.
        for length in 2 * lengths:
            ids = torch.full((1, length), config.text_config.bos_token_id, device=device)
            self._decoder.warm_up(ids, image)
            self._fenced.warm_up(ids, image, fenced)
        self.reset()

    def reset(self) -> None:
        """Forget earlier actions: a new episode begins, or the last action was not carried out."""
        self._decoder.reset()
        self._instruction, self._situation, self._last = None, UNKNOWN, None

    def act(
        self, image: NDArray[np.uint8], instruction: str, stamp: float | None = None,
        position: tuple[float, float, float] | None = None, limits: StepLimits | None = None,
        carried: int | None = None,
    ) -> Action:
        """
        Decode the action for a camera frame.

        image: uint8 [H, W, 3] RGB, top row first, of any size. instruction: a sentence.
        stamp: when the frame was taken, s on any clock; None = right after the last one. Drafters
        forget earlier actions at a new instruction, a gap of more than 10 control periods of the
        data set, or a clock that goes back.
        position: of the end effector, m, for rules and guards that ask for it; None = unknown.
        limits: of the next control step, see ``safety.step_limits``: bins outside are neither
        accepted nor chosen. What it can't resolve into bins is left to ``safety.fit``. None = all.
        carried: of the last action's steps, how many were carried out; None = all of them.
        Raises ValueError if one is not of that form, or if the action is not finite.
        """
        if not isinstance(instruction, str):
            raise SpecVLAError(f'instruction is {instruction!r}, must be a string')
        started = time.perf_counter()
        if not self._goes_on(instruction, stamp):
            self.reset()
        self._instruction = instruction
        self._situation = replace(
            self._carried_out(carried), stamp=stamp, position=position, carried=carried)
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
        action = self._action(tokens, trace)
        self._decoder.remember(tokens)
        self._last = replace(self._situation, risk=trace.risk), action.si
        self._situation = _after(*self._last)
        return action

    def _carried_out(self, carried: int | None) -> Situation:
        """Return the situation if of the last action only so many steps were carried out."""
        most = self.checkpoint.space.chunk
        if carried is not None and (type(carried) is not int or not 0 <= carried <= most):
            raise SpecVLAError(f'carried is {carried!r}, must be a whole number from 0 to {most}, '
                               'the steps of an action')
        if carried is None or self._last is None:
            return self._situation
        before, said = self._last
        return _after(before, said[:carried])

    def _within(self, limits: StepLimits | None) -> tuple[Decoder | AutoDecoder, Situation]:
        """Return a decoder that keeps to these limits, and the situation that tells it them."""
        bins, chunk = self.checkpoint.bin_values, self.checkpoint.space.chunk
        if limits is None or not can_forbid(limits, bins, chunk):
            return self._decoder, self._situation
        return self._fenced, replace(
            self._situation, limits=guard_numbers(limits, bins, chunk))

    def _goes_on(self, instruction: str, stamp: float | None) -> bool:
        """Whether this action follows the last one closely, on the same errand."""
        if instruction != self._instruction:
            return False
        before = self._situation.stamp
        if stamp is None or before is None:
            return True
        return 0 <= stamp - before <= _MEMORY_PERIODS * self.dataset.period_s

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


def _after(before: Situation, steps: NDArray[np.float32]) -> Situation:
    """Return the situation once these steps [n, 7] were carried out."""
    done = tuple(map(tuple, steps.tolist()))
    if not done:
        return before
    return replace(before, previous=done[-1], steps=before.steps + len(done),
                   recent=(*before.recent, *done)[-_RECENT:])


def to_si(values: NDArray[np.float32], dataset: DatasetConfig) -> NDArray[np.float32]:
    """
    Data-set units [chunk, 7] → m, rotation vector (rad), gripper 0 (closed) … 1 (open).

    Returns float32 [chunk, 7]. The gripper is clipped to its two ends; what lies between them is
    left to the robot.
    """
    si = np.empty_like(values, dtype=np.float32)
    si[:, :3] = values[:, :3] * dataset.translation_scale_m
    si[:, 3:6] = rotation_vectors(values[:, 3:6] * dataset.rotation_scale_rad, dataset.rotation)
    closed, opened = dataset.gripper_closed, dataset.gripper_open
    si[:, 6] = np.clip((values[:, 6] - closed) / (opened - closed), 0.0, 1.0)
    return si


def bin_values(
    statistics: ActionStatistics, dataset: DatasetConfig, tokenizer: ActionTokenizer
) -> BinValues:
    """What the bins of translation and rotation mean, as ``Action.si`` has them."""
    ids = np.arange(tokenizer.last_id, tokenizer.first_id, -1)  # of the two lowest only one
    normalized = tokenizer.decode(ids)[:, None].repeat(_SI_DIMENSIONS, 1)
    values = statistics.unnormalize(normalized)
    return BinValues.of(
        np.concatenate((values[:, :3] * np.float32(dataset.translation_scale_m),
                        values[:, 3:6] * np.float32(dataset.rotation_scale_rad)), axis=1),
        dataset.rotation)


def image_preparation(model: OpenVLA, dataset: DatasetConfig) -> ImagePreparation:
    """How this model's frames were prepared: what the checkpoint says, else what the data set."""
    stated = model.config.image_preparation
    return dataset.image if stated is None else ImagePreparation.of(stated)


def action_chunk(config: OpenVLAConfig, wanted: int | None) -> int:
    """
    Return the control steps of a checkpoint's actions: what it says; else what is wanted, or one.

    Raises SpecVLAError if both say something and not the same.
    """
    said = config.chunk
    if said is not None and wanted is not None and said != wanted:
        raise SpecVLAError(
            f'chunk is {wanted}, but this checkpoint says actions of {said} control '
            f'step{"s" if said > 1 else ""} (config.json): leave chunk out, or give {said}')
    return (said or 1) if wanted is None else wanted


def check_dimensions(statistics: ActionStatistics, key: str) -> None:
    """Raise SpecVLAError unless a data set's actions are of 7 dimensions."""
    if statistics.action_dim != _SI_DIMENSIONS:
        raise SpecVLAError(
            f'actions of {key} have {statistics.action_dim} dimensions, must have '
            f'{_SI_DIMENSIONS}: translation, rotation and gripper'
        )


def bin_si(
    statistics: ActionStatistics, dataset: DatasetConfig, n_bins: int
) -> tuple[float, ...]:
    """
    How far one bin moves the robot, [7]: m, rad, share of the gripper's way.

    The range [-1, 1] has n_bins - 1 bins; see ``ActionStatistics.unnormalize`` and ``to_si``.
    """
    ranges = np.where(statistics.mask, statistics.q99 - statistics.q01, 2.0)
    way = 1 / abs(dataset.gripper_open - dataset.gripper_closed)
    scales = [*[dataset.translation_scale_m] * 3, *[dataset.rotation_scale_rad] * 3, way]
    return tuple((ranges / (n_bins - 1) * scales).tolist())


def _config(decoder: str | Path | DecoderConfig) -> DecoderConfig:
    """Preset by name or path, unless it is one already."""
    return decoder if isinstance(decoder, DecoderConfig) else load_preset(decoder)


def resolve_device(device: str | torch.device) -> torch.device:
    """Device by name, 'auto' = CUDA where there is one; raises SpecVLAError for one that isn't."""
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise SpecVLAError(f"device is {device!r}, must be 'auto', 'cpu' or 'cuda'") from error
    if found.type == 'cuda' and not torch.cuda.is_available():
        raise SpecVLAError(
            f"device is '{found}', but torch {torch.__version__} sees no CUDA GPU; use 'cpu', or "
            'install a CUDA build of torch'
        )
    return found


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Data type by name; None stays None. Raises SpecVLAError for one that isn't known."""
    if dtype is None or isinstance(dtype, torch.dtype) and dtype in _DTYPES.values():
        return dtype
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise SpecVLAError(f'dtype is {dtype!r}, must be one of {list(_DTYPES)}')
    return _DTYPES[dtype]
