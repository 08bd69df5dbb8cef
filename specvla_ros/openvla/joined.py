"""Several linear layers of one input as one product: fewer operations, the same weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn, Tensor
from torch.nn import functional

from .quantization import is_quantized


def joined(*linears: nn.Linear, column_major: bool = False) -> Callable[[Tensor], Tensor]:
    """
    Join layers of the same input: [S, in] → [S, sum of their out]. All have biases, or none.

    The layers' parameters are replaced by views of the joined ones: nothing is held twice, and a
    change in place of either is one of both. An optimizer made before holds the old ones, and
    torch's fused optimizers can't step views that are column-major: train, then decode.

    column_major: how a CPU holds the joined weight; faster where the input has few rows.
    """
    if any(is_quantized(linear.weight) for linear in linears):
        # Their kernels want the weights as they were packed: several products, joined behind.
        return lambda x: torch.cat([linear(x) for linear in linears], dim=-1)
    weight = torch.cat([linear.weight for linear in linears])
    if column_major and weight.device.type == 'cpu':
        weight = weight.t().contiguous().t()
    bias = None
    if linears[0].bias is not None:
        bias = torch.cat([linear.bias for linear in linears])
    sizes, start = [linear.out_features for linear in linears], 0
    for linear, size in zip(linears, sizes, strict=True):
        rows = slice(start, start := start + size)
        linear.weight = nn.Parameter(weight[rows], linear.weight.requires_grad)
        if bias is not None:
            linear.bias = nn.Parameter(bias[rows], linear.bias.requires_grad)
    return lambda x: functional.linear(x, weight, bias)
