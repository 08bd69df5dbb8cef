"""
Tiny random models, prompts and drafters that guess well enough to be accepted now and then.

Everything is float64. A token verified in a batch and the same token decoded alone go through
matrix products of different shapes, whose sums differ in the last bits: in float32 a near-tie
between two logits could then fall either way, and "strict equals ar" would fail without a fault
in the decoder. In float64 such a tie does not happen in a lifetime of test runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from specvla_ros.action_space import ActionSpace
from specvla_ros.decoding.acceptance import Acceptance
from specvla_ros.decoding.decoder import Decoder
from specvla_ros.decoding.drafters import (
    DraftContext,
    Drafter,
    EagleConfig,
    EagleDrafter,
    EagleHead,
    GlanceConfig,
    GlanceDrafter,
    GlanceHead,
    GlanceSettings,
    NoDrafter,
    TreeBudget,
)
from specvla_ros.decoding.guard import Guard
from specvla_ros.decoding.rules.rule import Rule
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.decoding.target import Target
from specvla_ros.decoding.tree import TokenTree
from specvla_ros.graphs import GraphRunner, Runner
from specvla_ros.openvla.config import OpenVLAConfig, VisionConfig, ViTConfig
from specvla_ros.openvla.model import OpenVLA

HIDDEN = 32
VOCABULARY = 300


@lru_cache(maxsize=16)
def model(seed: int, kv_heads: int = 4) -> OpenVLA:
    """Random OpenVLA, two layers of 32; weights large enough that tokens differ."""
    torch.manual_seed(seed)
    text = LlamaConfig(
        vocab_size=VOCABULARY + 64,
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=HIDDEN // 4,
        max_position_embeddings=256,
        rms_norm_eps=1e-6,
        rope_parameters={'rope_type': 'default', 'rope_theta': 10000.0},
        attn_implementation='sdpa',
        use_cache=False,
    )
    tower = ViTConfig(hidden_size=16, depth=2, num_heads=2, mlp_size=32)
    made = OpenVLA(OpenVLAConfig(VisionConfig(tower, tower, image_size=28), text))
    with torch.no_grad():
        for parameter in (*made.language_model.parameters(), *made.lm_head.parameters()):
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    _use_exact_norms(made.language_model)
    return made.double().eval().requires_grad_(False)


def _use_exact_norms(llama: nn.Module) -> None:
    """Transformers' norms compute in float32 whatever the model is; torch's keep float64."""
    for module in list(llama.modules()):
        for name, child in module.named_children():
            if isinstance(child, LlamaRMSNorm):
                setattr(module, name, nn.RMSNorm(HIDDEN, eps=child.variance_epsilon))


def eagle_head(openvla: OpenVLA, seed: int) -> EagleHead:
    """Random drafter for a model: attention sharp, probabilities soft, so that branches mix."""
    torch.manual_seed(seed)
    head = EagleHead(EagleConfig.like(openvla)).double().eval().requires_grad_(False)
    for name, parameter in head.named_parameters():
        if parameter.ndim > 1:
            sharp = 2.0 if 'q_proj' in name or 'k_proj' in name else 0.7
            parameter.normal_(std=sharp * parameter.shape[1] ** -0.5)
    return head


def glance_head(openvla: OpenVLA, seed: int, length: int) -> GlanceHead:
    """Random glance of a model: what it says depends on the image and the text."""
    torch.manual_seed(seed)
    head = GlanceHead(GlanceConfig.like(openvla, length, rank=3, width=16)).double()
    for parameter in head.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=2 * parameter.shape[1] ** -0.5)
    return head.eval().requires_grad_(False)


def prompt(seed: int, words: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt ids [1, T] and pixel values [1, 6, 28, 28]."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY - 256, (1, words + 1), generator=generator)
    ids[0, 0] = 1
    return ids, torch.randn((1, 6, 28, 28), generator=generator, dtype=torch.float64)


class Guesser(Drafter):
    """
    Guesses random trees, around what plain autoregression says, from the prefill on.

    Each draft is the right token, one a few bins off, or any: so paths of every length are
    accepted, rejected and, by relaxed rules, accepted wrongly.
    """

    def __init__(self, right: Sequence[int], seed: int, max_paths: int = 5) -> None:
        self.right = list(right)
        self.random = np.random.default_rng(seed)
        self.max_paths = max_paths

    def guess(self, context: DraftContext) -> TokenTree:
        return self.propose(context)

    def propose(self, context: DraftContext) -> TokenTree:
        known, random = len(context.tokens), self.random
        tokenizer = context.space.tokenizer
        paths = []
        for _ in range(random.integers(0, self.max_paths + 1)):
            length = random.integers(0, context.max_depth + 1)
            path = []
            for right in self.right[known : known + length]:
                near, far = random.integers(-12, 13), random.integers(-255, 256)
                off = random.choice([0, 0, 0, near, far])
                path.append(int(np.clip(right + off, tokenizer.first_id, tokenizer.last_id)))
            paths.append(path)
        return TokenTree.from_paths(paths, source='guesser')


class Recording(TorchDispatchMode):
    """
    Writes down the tensor operations of a function, in order, and runs them again.

    A step keeps the tensors it was recorded with. Those that an earlier step has made are made
    anew by `replay`; all others are read and written where they are, as a CUDA graph does.
    """

    # A value asked for, a shape that depends on values, a constant that comes from the host.
    FORBIDDEN = {'aten::_local_scalar_dense', 'aten::nonzero', 'aten::masked_select',
                 'aten::lift_fresh'}

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[tuple[Callable, tuple, dict, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masked = func is torch.ops.aten.index.Tensor and any(
            index.dtype == torch.bool for index in args[1] if index is not None)
        assert func._schema.name not in self.FORBIDDEN and not masked, f'{func} in a graph'
        result = func(*args, **kwargs or {})
        self._steps.append((func, args, kwargs or {}, result))
        return result

    def replay(self, outputs: Any) -> Any:
        """Run all steps; return what stands in the place of the recorded outputs."""
        made: dict[int, torch.Tensor] = {}

        def now(recorded: Any) -> Any:
            return made.get(id(recorded), recorded)

        for func, args, kwargs, result in self._steps:
            args, kwargs = tree_map(now, (args, kwargs))
            news = func(*args, **kwargs)
            made |= zip(map(id, tree_leaves(result)), tree_leaves(news), strict=True)
        return tree_map(now, outputs)


class ValuesAreAsked(TorchFunctionMode):
    """Refuses what reads a tensor's numbers without an operation of its own."""

    NAMES = {'tolist', 'item', 'cpu', 'numpy', '__array__', '__bool__', '__int__', '__float__',
             '__index__', '__contains__'}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func.__name__ not in self.NAMES, f'{func.__name__} in a graph'
        return func(*args, **kwargs or {})


class TracedGraphs(GraphRunner):
    """
    CUDA graphs on a CPU: what a graph does and forbids, without a GPU.

    A function is recorded once as a list of tensor operations, and each replay runs that list: no
    line of its Python runs again, what it read from objects is baked in, asking for a tensor's
    value fails, and so does a constant made on the host. So what is right here depends on nothing
    but its inputs and the tensors it was captured with, as in a CUDA graph, and inputs are padded
    as for one. Outputs stand in the same memory every time, and graphs share a pool: a replay may
    overwrite what another graph has returned, so here it does.
    """

    def __init__(self) -> None:
        super().__init__(torch.device('cpu'))
        self._returned: list[tuple[torch.Tensor, ...]] = []

    def _capture(
        self, function: Callable[..., Any], buffers: tuple[torch.Tensor, ...]
    ) -> tuple[Callable[[], None], Any]:
        function(*buffers)  # as CudaGraphs does: what is made once and kept is there then
        with ValuesAreAsked(), Recording() as recording:
            outputs = function(*buffers)
        mine = outputs if isinstance(outputs, tuple) else (outputs,)
        self._returned.append(mine)

        def replay() -> None:
            news = recording.replay(mine)
            for theirs in self._returned:
                for output in theirs:
                    output.fill_(torch.nan if output.is_floating_point() else 1 << 40)
            for output, new in zip(mine, news, strict=True):
                output.copy_(new)

        return replay, outputs


@dataclass(frozen=True)
class EveryThird:
    """A guard: each third bin is forbidden, which ones depends on token, prefix and state."""

    def allowed(self, said, position, state, space):
        bins = torch.arange(space.tokenizer.n_bins, device=said.device)
        shift = position + said.sum(1) + state[4].long()
        return (bins + shift[:, None]) % 3 > 0


@pytest.fixture
def every_third():
    return EveryThird()


class Lab:
    """A model, a prompt and an action space; decodes with any drafter and rule."""

    runners = {'plain': Runner, 'graphs': TracedGraphs}
    new_model = staticmethod(model.__wrapped__)

    def __init__(self, seed: int, action_dim: int, chunk: int, kv_heads: int = 4) -> None:
        self.model = model(seed, kv_heads)
        self.space = ActionSpace(self.model.action_tokenizer, action_dim, chunk)
        self.prompt = prompt(seed)
        self.longer_prompt = prompt(seed + 1, words=50)

    def decoder(
        self, drafter: Drafter, rule: Rule, runner: str | Runner = 'plain',
        guard: Guard | None = None,
    ) -> Decoder:
        """Decoder on the model; runner: by name, on a GPU graphs whatever the name; or one."""
        if isinstance(runner, str):
            runner = None if self.model.device.type == 'cuda' else self.runners[runner]()
        target = Target(self.model, runner)
        return Decoder(target, drafter, Acceptance(rule, guard, self.space, target))

    def decode(self, drafter: Drafter, rule: Rule, *others: object) -> tuple:
        return self.decoder(drafter, rule, *others).decode(*self.prompt)

    def ar(self, guard: Guard | None = None) -> list[int]:
        return self.decode(NoDrafter(), Strict(), 'plain', guard)[0]

    def eagle(self, seed: int, budget: TreeBudget) -> EagleDrafter:
        return EagleDrafter(eagle_head(self.model, seed), budget)

    def glance(self, seed: int, settings: GlanceSettings | None = None) -> GlanceDrafter:
        head = glance_head(self.model, seed, self.space.length)
        return GlanceDrafter(head, settings or GlanceSettings())

    def guesser(self, seed: int) -> Guesser:
        return Guesser(self.ar(), seed)


@pytest.fixture(scope='session')
def lab() -> type[Lab]:
    """Fixture by hand-over: test modules can't import each other under importlib mode."""
    return Lab
