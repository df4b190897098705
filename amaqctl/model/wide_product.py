"""Products in float32 for 16-bit layers, where the processor has no arithmetic in 16 bits (ours).

Most processors of laptops, and servers of some years ago, have none: torch then multiplies 16-bit
matrices by hand, forward 8 and backward 45 times slower than float32 (measured, AVX2). Here both
factors are widened, multiplied in float32 and the product rounded to 16 bits: what a processor with
such arithmetic does, but for the order of its sums. Weights are widened anew for each product, so
they stay at two bytes each.

Shapes: O outputs, I inputs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D


@cache
def is_quick_in(dtype: torch.dtype) -> bool:
    """Whether torch has kernels for products in this dtype on this processor."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return True


def multiply_wide(model: nn.Module, dtype: torch.dtype) -> None:
    """Let the linear layers of a model in ``dtype`` multiply in float32, where that is quicker.

    Layers that are something more than linear keep their own way.
    """
    if is_quick_in(dtype):
        return
    for module in model.modules():
        if type(module) in _WIDE:
            module.__class__ = _WIDE[type(module)]


class WideLinear(nn.Linear):
    """`nn.Linear`, with products in float32 on the CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """``(..., I)`` to ``(..., O)``."""
        if input.device.type != "cpu":
            return super().forward(input)
        product: Tensor = _Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return product


class WideConv1D(Conv1D):  # type: ignore[misc]
    """GPT-2's linear layer, whose weight is (I, O), with products in float32 on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., I)`` to ``(..., O)``."""
        if x.device.type != "cpu":
            return super().forward(x)  # type: ignore[no-any-return]
        product: Tensor = _Product.apply(x, self.weight.t(), self.bias)  # type: ignore[no-untyped-call]
        return product


_WIDE: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: WideLinear, Conv1D: WideConv1D}


class _Product(torch.autograd.Function):
    """x Wᵀ + b; nothing of full width is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight_OI)
        bias = None if bias_O is None else bias_O.float()
        return functional.linear(x.float(), weight_OI.float(), bias).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight_OI = ctx.saved_tensors
        wide = gradient.float()
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = torch.matmul(wide, weight_OI.float()).to(gradient.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = wide.flatten(0, -2).t() @ x.float().flatten(0, -2)
            of_weight = of_weight.to(weight_OI.dtype)
        if ctx.needs_input_grad[2]:
            of_bias = wide.flatten(0, -2).sum(0).to(gradient.dtype)
        return of_x, of_weight, of_bias
