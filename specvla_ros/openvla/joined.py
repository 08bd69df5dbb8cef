"""Several linear layers of one input as one product: fewer operations, the same weights."""

from __future__ import annotations

import torch
from torch import nn, Tensor

from .quantization import is_quantized


class Product:
    """A product with a weight [out, in], and a bias [out] or none."""

    __slots__ = ('_bias', '_turned')

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._turned, self._bias = weight.t(), bias

    def __call__(self, x: Tensor) -> Tensor:
        """[S, in] → [S, out]."""
        if self._bias is None:
            return torch.mm(x, self._turned)
        return torch.addmm(self._bias, x, self._turned)

    def add_to(self, total: Tensor, x: Tensor) -> Tensor:
        """Add the product of x [S, in] to a total [S, out], in place, in one operation."""
        if self._bias is not None:
            return total.add_(self(x))
        return total.addmm_(x, self._turned)


class SeparateProducts(Product):
    """Products whose weights can't be joined, of one input."""

    __slots__ = ('_linears',)

    def __init__(self, linears: tuple[nn.Linear, ...]) -> None:
        self._linears = linears

    def __call__(self, x: Tensor) -> Tensor:
        """[S, in] → [S, sum of their out]."""
        return torch.cat([linear(x) for linear in self._linears], dim=-1)

    def add_to(self, total: Tensor, x: Tensor) -> Tensor:
        """Add them to a total, in place."""
        return total.add_(self(x))


def joined(*linears: nn.Linear, column_major: bool = False) -> Product:
    """
    Join layers of the same input: [S, in] → [S, sum of their out]. All have biases, or none.

    The layers' parameters are replaced by views of the joined ones: nothing is held twice, and a
    change in place of either is one of both. An optimizer made before holds the old ones, and
    torch's fused optimizers can't step views that are column-major: train, then decode.

    column_major: how a CPU holds the joined weight; faster where the input has few rows.
    """
    if any(is_quantized(linear.weight) for linear in linears):
        # Their kernels want the weights as they were packed: several products, joined behind.
        return SeparateProducts(linears)
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
    return Product(weight, bias)
