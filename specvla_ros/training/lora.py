"""
Low-rank adapters on a target's Llama (LoRA: Hu et al., arXiv 2106.09685), by peft.

A 7B target is taught on one GPU so: its own weights are frozen, in the data type of the lanes,
and held once. What is written is merged, an ordinary checkpoint.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from specvla_ros.errors import SpecVLAError
from specvla_ros.openvla.model import OpenVLA

# All linear layers of the Llama. The scale is that of OpenVLA's own fine-tuning, min(rank, 16).
_LAYERS = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj']
_MOST_ALPHA = 16
MOST_RANK = 1024


def check_lora() -> None:
    """Raise SpecVLAError where peft is not installed."""
    _peft()


def add_lora(model: OpenVLA, rank: int) -> None:
    """Freeze a model and add adapters, in place: they alone are trained; at first they add 0."""
    peft = _peft()
    model.requires_grad_(False)
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=rank, lora_alpha=min(rank, _MOST_ALPHA), target_modules=_LAYERS,
                        lora_dropout=0.0), model.language_model)
    for name, parameter in model.named_parameters():
        if '.lora_' in name:
            parameter.data = parameter.data.float()  # the masters; the lanes have a copy
            parameter.requires_grad_(True)


@torch.no_grad()
def merged(model: OpenVLA, dtype: torch.dtype) -> OpenVLA:
    """Return the model with its adapters in its weights, as `dtype`; it shares what has none."""
    from peft.tuners.lora import LoraLayer

    shared: dict[int, Any] = {id(it): it for it in [*model.parameters(), *model.buffers()]}
    whole = copy.deepcopy(model, shared)
    for name, layer in list(whole.named_modules()):
        if isinstance(layer, LoraLayer):
            base = layer.get_base_layer()
            weight = base.weight.float() + layer.get_delta_weight('default').float()
            with torch.device('meta'):
                linear = nn.Linear(base.in_features, base.out_features, bias=False)
            linear.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
            parent, _, own = name.rpartition('.')
            setattr(whole.get_submodule(parent), own, linear)
    return whole


def _peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError:
        raise SpecVLAError("--lora needs the Python package peft: pip install '.[lora]'") from None
    return peft
