"""A checkpoint in memory: the target, its drafters, what a data set makes of images and tokens."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from specvla_ros.action_space import ActionSpace
from specvla_ros.actions import bin_si, bin_values, check_dimensions, SI_DIMENSIONS
from specvla_ros.auto.auto_decoder import AutoDecoder
from specvla_ros.calibrated import check_calibrated
from specvla_ros.components import Component
from specvla_ros.configuration import DecoderConfig
from specvla_ros.data_sets import DatasetConfig, ImagePreparation, load_dataset
from specvla_ros.decoding.acceptance import Acceptance
from specvla_ros.decoding.completion import Completion, NONE
from specvla_ros.decoding.decoder import Decoder
from specvla_ros.decoding.drafters import able, Drafter, learned, make_drafter
from specvla_ros.decoding.guard import Guard
from specvla_ros.decoding.rules import make_rule
from specvla_ros.decoding.target import Target
from specvla_ros.drafter_folders import weights_folder
from specvla_ros.errors import counted, SpecVLAError
from specvla_ros.openvla.action_tokenizer import ActionStatistics
from specvla_ros.openvla.config import OpenVLAConfig
from specvla_ros.openvla.image_transform import mirrored
from specvla_ros.openvla.model import OpenVLA


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
            tokenizer, SI_DIMENSIONS, action_chunk(model.config, chunk),
            bin_si(self.statistics, self.dataset, tokenizer.n_bins))
        self.bin_values = bin_values(self.statistics, self.dataset, tokenizer)
        self.preparation = image_preparation(model, self.dataset)
        self.transform = model.image_transform(
            jpeg=self.preparation.jpeg, crop_area=self.preparation.crop_area)
        self.prompt_ids = lru_cache(maxsize=64)(self._prompt_ids)

    @property
    def execute_steps(self) -> int:
        """Steps to execute before the next action: what the checkpoint recommends, or all."""
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
        members, missing = able(config.of_chunk(self.space.chunk), self.drafters)
        for member in members:
            check_calibrated(member, self.folder, self.drafters, self.dataset.unnorm_key)
        target = Target(self.model)
        decoders = {it.name: self._on(target, it, guard) for it in members}
        return AutoDecoder(decoders, missing) if config.candidates else decoders[config.name]

    def _on(self, target: Target, config: DecoderConfig, guard: Guard | None) -> Decoder:
        """Make a decoder of one drafter on a target."""
        drafter, completion = self._drafter(config.drafter), NONE
        if config.completion is not None:
            completion = Completion(config.completion, self._drafter(config.completion.drafter))
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
            f'chunk is {wanted}, but this checkpoint says actions of '
            f'{counted(said, "control step")} (config.json): leave chunk out, or give {said}')
    return (said or 1) if wanted is None else wanted
