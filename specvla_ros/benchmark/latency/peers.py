"""
Peers: transformers' own `generate` on the same weights, as OpenVLA is run today.

Image, vision towers and prompt go the same way as ours; from the prompt's embeddings on everything
is transformers': its Llama, its cache, its loop, its head over the whole vocabulary. Where that
head says a text token, its tokens differ from ours, which are action tokens always.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
import time

import numpy as np
from numpy.typing import NDArray
import torch
from transformers import GenerationConfig
from transformers.generation.configuration_utils import CompileConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from specvla_ros.actions import Action, to_si
from specvla_ros.decoding.trace import DecodeTrace
from specvla_ros.loaded_checkpoint import Checkpoint
from specvla_ros.openvla.model import OpenVLA


@dataclass(frozen=True, slots=True)
class Generation:
    """How a peer generates: its attention, and further arguments of `generate`."""

    attention: str
    options: Callable[[], dict]


def _compiled() -> dict:
    """
    Return the arguments that make `generate` compile its decoding passes.

    By itself it compiles on GPUs only. `reduce-overhead` is CUDA graphs, its own default there.
    """
    settings = CompileConfig(mode='reduce-overhead' if torch.cuda.is_available() else 'default')
    settings._compile_all_devices = True  # type: ignore[assignment]  # declared as None only
    return {'cache_implementation': 'static', 'compile_config': settings}


# Names as bench.PEERS has them, where nothing heavy may be imported.
GENERATIONS = {
    'generate': Generation('eager', dict),
    'generate-sdpa': Generation('sdpa', dict),
    'generate-compiled': Generation('sdpa', _compiled),
}


class GeneratePeer:
    """Decodes greedily with `LlamaForCausalLM.generate`, on the weights of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint, generation: Generation) -> None:
        self._checkpoint = checkpoint
        self._llama = causal_lm(checkpoint.model, generation.attention)
        length = checkpoint.space.length
        # No EOS: an action is L tokens, whatever they are.
        self._config = GenerationConfig(
            max_new_tokens=length, do_sample=False, eos_token_id=None, pad_token_id=0,
            **generation.options())

    def reset(self) -> None:
        """Nothing is remembered."""

    @torch.inference_mode()  # as ours; a peer isn't made slow
    def act(self, image: NDArray[np.uint8], instruction: str, stamp: float | None = None, *,
            executed: int | None = None) -> Action:
        """Return the action for a frame, as `Policy.act` does; it looks at nothing else."""
        checkpoint, device = self._checkpoint, self._checkpoint.model.device
        space, length = checkpoint.space, checkpoint.space.length
        trace = DecodeTrace(
            target_passes=length, drafts=[(0, 0)] * length, sources=['target'] * length,
            acceptance_lengths=[1] * (length - 1), stage_ms={})
        started = time.perf_counter()
        with trace.stage('preprocess', device):
            prompt_ids = checkpoint.prompt_ids(instruction)
            pixel_values = checkpoint.pixel_values(image)
        with trace.stage('vision', device):
            patches = checkpoint.model.embed_image(pixel_values)
            prompt = checkpoint.model.multimodal_prompt(prompt_ids, patches)
        with trace.stage('generate', device):
            ids = self._llama.generate(
                inputs_embeds=prompt, generation_config=self._config,
                attention_mask=torch.ones(prompt.shape[:2], dtype=torch.long, device=device))
            tokens = ids[0].tolist()
        trace.settle()
        trace.stage_ms['total'] = 1e3 * (time.perf_counter() - started)
        normalized = space.tokenizer.decode(
            np.array(tokens).reshape(space.chunk, space.action_dim))
        values = checkpoint.statistics.unnormalize(normalized)
        return Action(tuple(tokens), normalized, values, to_si(values, checkpoint.dataset), trace)


def causal_lm(model: OpenVLA, attention: str) -> LlamaForCausalLM:
    """
    Return transformers' own causal language model on a model's weights, not a copy of them.

    :param attention: as transformers names its implementations
    """
    config = deepcopy(model.config.text_config)
    config.use_cache = True
    config._attn_implementation = attention
    with torch.device('meta'):
        llama = LlamaForCausalLM(config)
    weights = {f'model.{name}': tensor for name, tensor in
               model.language_model.state_dict().items()}
    llama.load_state_dict(weights | {'lm_head.weight': model.lm_head.weight.detach()},
                          assign=True)
    llama.model.rotary_emb = model.language_model.rotary_emb  # in no checkpoint
    return llama.eval()
