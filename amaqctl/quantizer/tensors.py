"""`QuantizedTensor`, and the few steps that every quantizer takes to it and from it.

Legend: R rows (leading dimensions flattened), C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from amaqctl.bits import PackedCodes, Rounding
from amaqctl.errors import QuantizationError
from amaqctl.quantizer.site import Site, TensorContext

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int16": torch.int16,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "int8": torch.int8,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

ScaleDtype = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class QuantizedTensor:
    """What a quantizer hands to the wire.

    Args:
        shape: of the tensor, to be restored.
        dtype: of the tensor, to be restored; float32, bfloat16 or float16.
        codes: packed codes, or None when everything is in ``side``.
        side: named side tensors (scales, means, …) of any dtype in `DTYPES`; every byte counts.

    Raises:
        QuantizationError: a dtype that the wire does not carry.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    codes: PackedCodes | None
    side: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dtype not in FLOAT_DTYPES:
            raise QuantizationError(f"tensors of {self.dtype} cannot be sent")
        for name, tensor in self.side.items():
            if tensor.dtype not in DTYPE_NAMES:
                raise QuantizationError(f"side tensor '{name}' has the dtype {tensor.dtype}")

    @property
    def num_values(self) -> int:
        """Values of the tensor."""
        return torch.Size(self.shape).numel()

    def to(self, device: torch.device) -> QuantizedTensor:
        """The same message with its tensors on ``device``; bit-widths stay on the CPU."""
        codes = self.codes
        if codes is not None:
            codes = replace(codes, data=codes.data.to(device))
        side = {name: tensor.to(device) for name, tensor in self.side.items()}
        return replace(self, codes=codes, side=side)


def rows_of(x: Tensor) -> Tensor:
    """x as float32 rows (R, C): leading dimensions flattened, channels last.

    Contiguous, since the order in which sums are taken, hence their last bit, follows memory.
    """
    return x.reshape(-1, x.shape[-1]).to(torch.float32).contiguous()


def num_rows(shape: tuple[int, ...]) -> int:
    """R, how many rows `rows_of` makes of a tensor of this shape."""
    return torch.Size(shape[:-1]).numel()


def restored(values: Tensor, quantized: QuantizedTensor) -> Tensor:
    """Decoded float32 values in the shape and dtype of the tensor that was sent.

    Rounding can lift float16's largest values (65504) beyond what it holds; they stay there.
    """
    if quantized.dtype == torch.float16:
        largest = torch.finfo(torch.float16).max
        values = values.clamp(-largest, largest)
    return values.to(quantized.dtype).reshape(quantized.shape)


def side_values(values: Tensor, dtype: ScaleDtype) -> Tensor:
    """``values`` rounded to the dtype they travel in, so that both ends compute with the same.

    Raises:
        QuantizationError: a value is not finite, or overflows ``dtype``.
    """
    rounded = values.to(DTYPES[dtype])
    if not bool(rounded.isfinite().all()):
        if not bool(values.isfinite().all()):
            raise QuantizationError(
                "a scale is not finite",
                hint="values are too large to be added up: look for a diverging run",
            )
        raise QuantizationError(
            f"a scale overflows {dtype}", hint="bfloat16 and float32 reach as far as the values do"
        )
    return rounded


def rounding_noise(
    rounding: Rounding, like_RC: Tensor, site: Site, context: TensorContext
) -> Tensor | None:
    """Noise for stochastic rounding, a pure function of seed, place and step; None for nearest.

    Stateless, so a resumed run draws what the run that was never stopped would have drawn.
    """
    if rounding == "nearest":
        return None
    generator = torch.Generator().manual_seed(_mix(site, context))
    return torch.rand(like_RC.shape, generator=generator).to(like_RC.device)


def _mix(site: Site, context: TensorContext) -> int:
    parts: Iterator[int] = iter(
        (site.seed, context.link, context.role == "gradient", context.step, context.micro_batch)
    )
    state = 0
    for part in parts:
        state = (state * 1_000_003 + part + 1) % (1 << 61)
    return state
