"""
The OpenVLA network: prompt and patches in, hidden states and logits out.

It decides nothing about decoding: which tokens stand in a pass, at which positions and who
attends to whom is the caller's, and so is the key/value cache.
"""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path

import torch
from torch import nn, Tensor
from transformers import PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaModel, LlamaRotaryEmbedding

from .action_tokenizer import ActionStatistics, ActionTokenizer
from .checkpoint import read_config, read_norm_stats, write_config
from .config import OpenVLAConfig
from .errors import CheckpointError
from .fused_llama import additive, FusedLlama, KeyValueCache
from .fused_vision import FusedTowers
from .image_transform import ImageTransform
from .initial_weights import drawn, initialise
from .layout import published_tensors
from .lazy import lazy_property
from .libraries import check_transformers
from .preprocessor import Normalisation, read_normalisation, write_preprocessor
from .projector import Projector
from .prompt import check_tokenizer, load_tokenizer, prompt_ids
from .quantization import check_quantization, is_quantized, quantize
from .vision import FusedVision
from .weights import read_weights, write_weights


class OpenVLA(nn.Module):
    """
    An OpenVLA of any size, random until weights are loaded.

    ``tokenizer`` and ``norm_stats`` come with a checkpoint; without them the methods that need
    them raise.
    """

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        check_transformers()
        self.config = config
        text, vision = config.text_config, config.vision_config
        self.vision = FusedVision(vision)
        self.projector = Projector(
            vision.feature_size, text.hidden_size, fused=vision.siglip is not None
        )
        self.language_model = LlamaModel(text)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        initialise(*self.projector.children(), self.lm_head)
        self.action_tokenizer = ActionTokenizer(config.action_vocab_size, config.n_action_bins)
        self.tokenizer: PreTrainedTokenizerFast | None = None
        self.norm_stats: dict[str, dict] = {}
        self.normalisation = Normalisation()

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        device: torch.device | str = 'cpu',
        dtype: torch.dtype | None = None,
        quantization: str = 'none',
    ) -> OpenVLA:
        """
        Load a folder in the published layout, in evaluation mode.

        dtype: None means float32 on the CPU and what the config says elsewhere.
        quantization: of the Llama's matrices, 'none', 'int8' or 'int4' (bfloat16 always).
        Raises FileNotFoundError or ValueError with one clear line; LibraryError is one of these.
        """
        folder, device = Path(folder), torch.device(device)
        check_transformers()
        check_quantization(quantization, device, dtype)
        content = read_config(folder)
        config = OpenVLAConfig.from_dict(content, str(folder / 'config.json'))
        norm_stats = read_norm_stats(folder, content)
        normalisation = read_normalisation(folder, config)
        tokenizer = load_tokenizer(folder, config)
        with torch.device('meta'):
            model = cls(config)
        if quantization == 'int4':
            dtype = torch.bfloat16
        elif dtype is None:
            dtype = torch.float32 if device.type == 'cpu' else getattr(torch, config.dtype)
        # A GPU too small for the weights may hold them once they are quantised.
        first = device if quantization == 'none' else torch.device('cpu')
        weights = read_weights(
            folder, published_tensors(model.state_dict()), config.vision_config, first, dtype
        )
        model.load_state_dict(weights, assign=True)
        del weights  # else it would keep what is quantised next
        model._make_buffers()
        if quantization != 'none':
            quantize(model.language_model.layers, quantization, device)
            model.to(device)
        model.tokenizer, model.norm_stats = tokenizer, norm_stats
        model.normalisation = normalisation
        return model.eval()

    @classmethod
    def untrained(
        cls,
        config: OpenVLAConfig,
        device: torch.device | str = 'cpu',
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> OpenVLA:
        """
        Random weights of any size, drawn on the device in their data type: to measure speed.

        Unlike the constructor it never holds the weights twice or in float32.
        """
        with torch.device('meta'):
            model = cls(config)
        model.load_state_dict(drawn(model.state_dict(), device, dtype, seed), assign=True)
        model._make_buffers()
        return model.eval().requires_grad_(False)

    def save_pretrained(
        self, folder: str | os.PathLike[str], dtype: torch.dtype | None = None
    ) -> None:
        """
        Save weights, config with statistics, and tokenizer in the published layout.

        dtype: how the weights are stored; None keeps the model's own. What ``from_pretrained``
        would refuse, raises CheckpointError before anything is written.
        """
        if self.tokenizer is None:
            raise CheckpointError('the model has no tokenizer: set model.tokenizer, then save')
        if any(map(is_quantized, self.parameters())):
            raise CheckpointError('the model is quantised: load it without, then save')
        check_tokenizer(self.tokenizer, self.config, 'the tokenizer')
        folder, dtype = Path(folder), dtype or self.dtype
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state_dict()
        write_weights(folder, published_tensors(state), state, dtype)
        content = self.config.to_dict() | {
            'torch_dtype': str(dtype).removeprefix('torch.'),
            'norm_stats': self.norm_stats,
        }
        write_config(folder, content)
        write_preprocessor(folder, self.normalisation, self.config)
        self.tokenizer.save_pretrained(folder)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return self.lm_head.weight.dtype

    def prompt_ids(self, instruction: str) -> Tensor:
        """
        Ids of the prompt for an instruction, int64 [T], BOS first, on the model's device.

        Raises ValueError for an empty instruction or one the tokenizer can't encode.
        """
        if self.tokenizer is None:
            raise CheckpointError('the model has no tokenizer: load a checkpoint that has one')
        ids = prompt_ids(self.tokenizer, self.config.text_config.bos_token_id, instruction)
        return torch.tensor(ids, device=self.device)

    def action_statistics(self, unnorm_key: str | None = None) -> ActionStatistics:
        """
        Statistics of one data set; without a key, of the only one there is.

        Raises ValueError, listing the keys there are, if the key is unknown or not determined.
        """
        keys = sorted(self.norm_stats)
        if unnorm_key is None and len(keys) == 1:
            unnorm_key = keys[0]
        if unnorm_key not in self.norm_stats:
            raise ValueError(f'unnorm_key is {unnorm_key!r}, must be one of {keys}')
        return ActionStatistics.from_dict(self.norm_stats[unnorm_key]['action'], unnorm_key)

    def action_dim(self, unnorm_key: str | None = None) -> int:
        """Action dimensions of a data set: tokens per control step."""
        return self.action_statistics(unnorm_key).action_dim

    def image_transform(
        self, *, jpeg: bool = True, crop_area: float = 0.9,
        device: torch.device | str | None = None,
    ) -> ImageTransform:
        """
        Return what makes this model's pixel values of frames, on its device or another.

        jpeg, crop_area: how the data set's frames were prepared, see `ImageTransform`.
        """
        return ImageTransform(self.config.image_size, device or self.device, jpeg=jpeg,
                              crop_area=crop_area, normalisation=self.normalisation)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Embeddings [..., h] of token ids [...]."""
        return self.language_model.embed_tokens(ids)

    def embed_patches(self, pixel_values: Tensor) -> Tensor:
        """Projected patches [B, P, h] of pixel values [B, 6, H, W]."""
        return self.projector(self.vision(pixel_values.to(self.dtype)))

    def embed_image(self, pixel_values: Tensor) -> Tensor:
        """Projected patches [1, P, h] of one image [1, 6, H, W], for inference."""
        return self.projector(self.fused_towers(pixel_values.to(self.dtype)))

    def embed(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        """
        The multimodal prompt [B, P + T, h]: BOS, the projected patches, the rest of the text.

        input_ids: int64 [B, T], BOS first; pixel_values: float [B, 6, H, W].
        """
        return self.multimodal_prompt(input_ids, self.embed_patches(pixel_values))

    def multimodal_prompt(self, input_ids: Tensor, patches: Tensor) -> Tensor:
        """Set projected patches [B, P, h] right after the BOS of ids [B, T]: [B, P + T, h]."""
        tokens = self.embed_tokens(input_ids)
        return torch.cat((tokens[:, :1], patches, tokens[:, 1:]), dim=1)

    def forward(
        self,
        inputs_embeds: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """
        Hidden states [B, S, h] after the final norm.

        inputs_embeds: [B, S, h].
        position_ids: int64 [B, S] (or [1, S]); None counts from 0.
        attention_mask: bool [B or 1, 1, S, K], True = attend, or the additive equivalent in
            the model's dtype; K = what the cache returns, S without one. None means causal,
            which is right only for one token or where nothing is cached yet.
        cache: takes and returns each layer's keys and values; None keeps nothing (training).
        """
        if position_ids is None:
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None]
        if attention_mask is not None and attention_mask.dtype == torch.bool:
            attention_mask = additive(attention_mask, inputs_embeds.dtype)
        llama = self.language_model
        # The layers are walked here, not in LlamaModel.forward: that one looks for packed
        # sequences in position_ids, builds a mask of its own and asks the cache for its sizes.
        rotary = llama.rotary_emb(inputs_embeds, position_ids)
        hidden = inputs_embeds
        for layer in llama.layers:
            hidden = layer(
                hidden,
                attention_mask=attention_mask,
                past_key_values=cache,
                position_embeddings=rotary,
            )
        return llama.norm(hidden)

    @lazy_property
    def fused_llama(self) -> FusedLlama:
        """
        The language model for inference: ``forward`` for one sequence, in fewer operations.

        Made at the first use. Moving or converting the model forgets it.
        """
        return FusedLlama(self.language_model)

    @lazy_property
    def fused_towers(self) -> FusedTowers:
        """The vision towers for inference, as ``fused_llama`` is the language model."""
        return FusedTowers(self.vision)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary with padding rows] of hidden states [..., h]."""
        return self.lm_head(hidden)

    def _make_buffers(self) -> None:
        """Compute the buffers that no checkpoint holds: rotary frequencies, SigLIP positions."""
        # Frequencies stay float32 whatever the weights are: bfloat16 ones would be off by up
        # to 0.2 %, which at position 256 is half a radian.
        self.language_model.rotary_emb = LlamaRotaryEmbedding(self.config.text_config).to(
            self.device
        )
        if self.vision.siglip is not None:
            positions = torch.arange(self.config.n_patches, device=self.device)
            self.vision.siglip.embeddings.register_buffer(
                'position_ids', positions[None], persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OpenVLA:
        """Move or convert the module (``to``, ``half`` …), frequencies kept in float32."""
        super()._apply(fn, recurse)
        for fused in ('fused_llama', 'fused_towers'):
            self.__dict__.pop(fused, None)  # its weights are those from before
        if self.language_model.rotary_emb.inv_freq.dtype != torch.float32:
            self._make_buffers()
        return self

