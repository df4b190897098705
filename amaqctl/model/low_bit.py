"""Linear layers of a frozen base whose weights are held in 8 or 4 bits, by bitsandbytes.

The numbers are those of transformers' ``BitsAndBytesConfig``: 8 bits are one int8 a weight and one
scale an output (``load_in_8bit``), 4 bits are nf4 in blocks of 64 with scales in 8 bits
(``load_in_4bit``, ``bnb_4bit_quant_type="nf4"``, ``bnb_4bit_use_double_quant=True``). What is done
with them is ours: y = x Wᵀ + b with W as the codes say it, in training and in evaluation, on every
device. bitsandbytes' own layers compute one thing in training and another in evaluation.

Shapes: O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from amaqctl.errors import AmaqError, InputError, ResourceError, is_of_memory
from amaqctl.extras import low_bit
from amaqctl.model.reading import first_line

KEY = "model.base_bits"
_BLOCK, _OUTER_BLOCK = 64, 256
# Of the largest weight: half of nf4's widest step, and int8's, with room for rounding.
_WORST = {4: 0.16, 8: 0.006}
_TRIED = 64


class LowBitLinear(nn.Linear):
    """A linear layer whose own weights are not trained; to be filled by ``hold``.

    Its memory is taken before any weight is read, so that what reading one needs for a moment lies
    behind it all, and is used again for the next.

    Args:
        shape: (O, I).
        bias_O: None for none.
        bits: 8 or 4.
        dtype: what the codes become for a product; that of the inputs.
        is_transposed: whether the weight file has inputs first (GPT-2's Conv1D).

    Attributes:
        weight: codes; int8 (O, I), or uint8 of two weights each, (O * I / 2, 1).
    """

    def __init__(
        self,
        shape: tuple[int, int],
        bias_O: Tensor | None,
        bits: int,
        dtype: torch.dtype,
        is_transposed: bool = False,
    ) -> None:
        nn.Module.__init__(self)  # not Linear's, which would make the weights
        self.out_features, self.in_features = shape
        self.bits, self.dtype, self.is_transposed = bits, dtype, is_transposed
        codes, scales = (_room_of_int8 if bits == 8 else _room_of_nf4)(*shape)
        self.weight = nn.Parameter(codes, requires_grad=False)
        bias = None if bias_O is None else nn.Parameter(bias_O, requires_grad=False)
        self.register_parameter("bias", bias)
        for name, values in scales.items():
            self.register_buffer(name, values, persistent=False)

    @torch.no_grad()
    def hold(self, weight_OI: Tensor) -> None:
        """Keep the codes and scales of these weights.

        Raises:
            InputError: bitsandbytes is not there.
        """
        codes, scales = (_int8 if self.bits == 8 else _nf4)(weight_OI)
        self.weight.copy_(codes)
        for name, values in scales.items():
            self.get_buffer(name).copy_(values)

    def weight_OI(self) -> Tensor:
        """The weights that the codes stand for, made anew at each call."""
        return _of_int8(self) if self.bits == 8 else _of_nf4(self)

    def forward(self, input: Tensor) -> Tensor:
        """``(..., I)`` to ``(..., O)``; nothing of full width is kept for the backward pass."""
        product: Tensor = _Product.apply(input, self)  # type: ignore[no-untyped-call]
        return product

    def extra_repr(self) -> str:
        """As of any linear layer, with the bits."""
        return f"{super().extra_repr()}, bits={self.bits}"


class _Product(torch.autograd.Function):
    """The product with weights that are made from their codes, in both directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: LowBitLinear) -> Tensor:
        ctx.layer = layer
        return functional.linear(x, layer.weight_OI(), layer.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return torch.matmul(gradient, ctx.layer.weight_OI()), None


def _room_of_int8(outputs: int, inputs: int) -> tuple[Tensor, dict[str, Tensor]]:
    return torch.empty(outputs, inputs, dtype=torch.int8), {"scale_O": torch.empty(outputs)}


def _int8(weight_OI: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    codes_OI, scale_O, _ = _functional().int8_vectorwise_quant(weight_OI.to(torch.float16))
    return codes_OI, {"scale_O": scale_O}


def _of_int8(layer: Any) -> Tensor:
    weight_OI: Tensor = layer.weight.to(layer.dtype)
    return weight_OI.mul_(layer.scale_O.unsqueeze(1).mul(1.0 / 127.0))


def _room_of_nf4(outputs: int, inputs: int) -> tuple[Tensor, dict[str, Tensor]]:
    num_blocks = -(outputs * inputs // -_BLOCK)
    return torch.empty(-(outputs * inputs // -2), 1, dtype=torch.uint8), {
        "scale_codes": torch.empty(num_blocks, dtype=torch.uint8),
        "scale_offset": torch.empty(()),
        "outer_scale": torch.empty(-(num_blocks // -_OUTER_BLOCK)),
    }


def _nf4(weight_OI: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    flat = weight_OI.reshape(-1)
    # Two weights share a byte. Blocks go on from row to row, so a flat one has the same.
    even = functional.pad(flat, (0, flat.numel() % 2))
    codes, state = _functional().quantize_4bit(
        even, blocksize=_BLOCK, compress_statistics=True, quant_type="nf4"
    )
    return codes, {
        "scale_codes": state.absmax,
        "scale_offset": state.offset,
        "outer_scale": state.state2.absmax,
    }


@cache
def _outer_levels(device: torch.device) -> Tensor:
    """What the codes of scales stand for: the same 256 numbers in all layers."""
    levels: Tensor = _functional().create_dynamic_map()
    return levels.to(device)


def _of_nf4(layer: Any) -> Tensor:
    bnb, num_weights = _functional(), layer.out_features * layer.in_features
    outer = bnb.QuantState(
        absmax=layer.outer_scale,
        code=_outer_levels(layer.weight.device),
        blocksize=_OUTER_BLOCK,
        dtype=torch.float32,
    )
    state = bnb.QuantState(
        absmax=layer.scale_codes,
        shape=torch.Size((num_weights + num_weights % 2,)),
        blocksize=_BLOCK,
        quant_type="nf4",
        dtype=layer.dtype,
        offset=layer.scale_offset,
        state2=outer,
    )
    flat: Tensor = bnb.dequantize_4bit(layer.weight, state).view(-1)
    return flat[:num_weights].view(layer.out_features, layer.in_features)


def _functional() -> Any:
    return low_bit("bitsandbytes.functional", KEY)


def check_low_bit(bits: int, dtype: torch.dtype, device: torch.device) -> None:
    """Try a small layer on the device, before any weight is read.

    Args:
        bits: 8 or 4.
        dtype: of the inputs.

    Raises:
        InputError: bitsandbytes is not there, or it cannot do this here.
        ResourceError: out of memory.
    """
    low_bit("bitsandbytes", KEY)
    weight_OI = torch.linspace(-1, 1, _TRIED * _TRIED).view(_TRIED, _TRIED).to(dtype)
    x = torch.eye(_TRIED, dtype=dtype, device=device, requires_grad=True)
    layer = LowBitLinear((_TRIED, _TRIED), None, bits, dtype)
    _tried(bits, device, lambda: _worst(layer, weight_OI, x))


def _worst(layer: LowBitLinear, weight_OI: Tensor, x: Tensor) -> float:
    """The largest error, forward and backward, of a weight between -1 and 1."""
    layer.hold(weight_OI)
    made = layer.to(x.device)(x)
    (gradient,) = torch.autograd.grad(made, x, torch.eye(_TRIED, dtype=x.dtype, device=x.device))
    right_OI = weight_OI.float()
    errors = [(made.T.float().cpu() - right_OI), (gradient.float().cpu() - right_OI)]
    return max(float(error.detach().abs().max()) for error in errors)


def _tried(bits: int, device: torch.device, look: Callable[[], float]) -> None:
    try:
        worst = look()
    except AmaqError:
        raise
    except Exception as error:  # of as many types as there are devices
        if is_of_memory(error):
            raise ResourceError(
                f"out of memory on {device}",
                where=KEY,
                hint="free some memory",
                error_id="RESOURCE-MEMORY",
            ) from error
        raise _cannot(bits, device, first_line(error)) from error
    if not worst <= _WORST[bits] + 0.01:  # NaN too; the rest is what 16 bits round
        raise _cannot(bits, device, f"a weight of 1 is wrong by {worst:.2g}")


def _cannot(bits: int, device: torch.device, reason: str) -> InputError:
    return InputError(
        f"bitsandbytes cannot hold a base in {bits} bits on this machine ({device}): {reason}",
        where=KEY,
        hint="set model.base_bits to null, or update bitsandbytes",
        error_id="INPUT-LOW-BIT",
    )


def uncounted(model: nn.Module) -> tuple[int, int]:
    """What a model's parameters do not show: weights beyond their codes, and bytes of scales."""
    layers = [layer for layer in model.modules() if isinstance(layer, LowBitLinear)]
    weights = sum(one.out_features * one.in_features - one.weight.numel() for one in layers)
    return weights, sum(buffer.nbytes for one in layers for buffer in one.buffers())
