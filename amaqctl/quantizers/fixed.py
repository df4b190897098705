"""`fixed`: one width for all values; the papers' "QAT" baseline (AMAQ, arXiv 2510.05468).

    s = r / n,   code = clamp(round(x / s), -n, n),   x̂ = code · s,   n = 2^(bits-1) - 1

The range r is max|x| over the tensor, over each token or over each channel (mean|x| at one bit,
where only the sign is sent). Which of the three the papers use is not known; all are options.
`bits: received` gives a gradient the widths of the activation message just received on its link.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from amaqctl.bits import BitAllocation, Rounding, decode, encode, passes, step_size
from amaqctl.errors import QuantizationError
from amaqctl.quantizer import (
    DTYPES,
    CodesLayout,
    Layout,
    QuantizedTensor,
    Quantizer,
    QuantizerConfig,
    ScaleDtype,
    SideLayout,
    TensorContext,
    num_rows,
    rounding_noise,
    rows_of,
    side_values,
)

_REDUCED_DIMS = {"tensor": (0, 1), "token": (1,), "channel": (0,)}


class FixedQuantizer(Quantizer):
    """Uniform quantization at one width."""

    option_sets = (
        {},
        {"bits": 1},
        {"bits": 2, "scale": "token", "scale_dtype": "float16"},
        {"bits": 8, "scale": "tensor", "rounding": "stochastic", "scale_dtype": "float32"},
    )

    class Config(QuantizerConfig):
        """Options of `fixed`."""

        bits: int | Literal["received"] = Field(
            4,
            union_mode="left_to_right",
            description="bit-width, 1 to 8; or 'received' (gradients only): the widths of the "
            "activation message just received on the link",
        )
        scale: Literal["tensor", "token", "channel"] = Field(
            "channel", description="what shares one scale"
        )
        rounding: Rounding = Field("nearest", description="nearest or stochastic")
        scale_dtype: ScaleDtype = Field("bfloat16", description="dtype in which ranges are sent")

        def model_post_init(self, _: object) -> None:
            """Refuse widths outside 1 to 8."""
            if self.bits != "received" and not 1 <= self.bits <= 8:
                raise ValueError("bits must be 1 to 8, or 'received'")

    def quantize(self, x: Tensor, context: TensorContext) -> QuantizedTensor:
        """Codes (R, C) in one width and ranges for each tensor, token or channel."""
        values_RC = x.reshape(-1, x.shape[-1]).contiguous()
        allocation = self._allocation_for(values_RC.shape[1], context)
        value_range = side_values(self._range(values_RC, allocation), self.config.scale_dtype)
        codes = encode(
            values_RC,
            step_size(value_range.float(), allocation),
            allocation,
            noise=rounding_noise(self.config.rounding, values_RC, self.site, context),
        )
        return QuantizedTensor(tuple(x.shape), x.dtype, codes, {"range": value_range})

    def dequantize(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """x̂ = code · s."""
        assert quantized.codes is not None
        scale = step_size(quantized.side["range"].float(), quantized.codes.allocation)
        return decode(quantized.codes, scale, dtype=quantized.dtype).reshape(quantized.shape)

    def layout(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        context: TensorContext,
        allocation: BitAllocation | None,
    ) -> Layout:
        """Codes (R, C) of the one width, or of received ones, and the ranges."""
        rows, channels = num_rows(shape), shape[-1]
        if self.config.bits == "received":
            codes = CodesLayout(rows, channels, "channel", range(9))
        else:
            codes = CodesLayout(rows, channels, "tensor", (self.config.bits,))
        dims = _REDUCED_DIMS[self.config.scale]
        range_shape = tuple(1 if d in dims else n for d, n in enumerate((rows, channels)))
        return Layout(codes, {"range": SideLayout(DTYPES[self.config.scale_dtype], range_shape)})

    def _allocation_for(self, num_channels: int, context: TensorContext) -> BitAllocation:
        if self.config.bits != "received":
            return BitAllocation.uniform(self.config.bits, num_channels)
        if context.allocation is None or context.allocation.axis == "position":
            raise QuantizationError(
                "there are no received channel widths to reuse",
                where=f"link {context.link} {context.role}",
                hint="bits: received is for gradients of a link whose activations have a width "
                "for each channel",
            )
        widths_C = context.allocation.widths_C
        if widths_C.numel() != num_channels:  # `none` in float32 has two columns a channel
            widths_C = torch.full((num_channels,), 8, dtype=torch.uint8)
        return BitAllocation(widths_C.clamp(max=8), "channel")

    def _range(self, values_RC: Tensor, allocation: BitAllocation) -> Tensor:
        dims = _REDUCED_DIMS[self.config.scale]
        if values_RC.numel() == 0:
            kept = [1 if d in dims else n for d, n in enumerate(values_RC.shape)]
            return torch.zeros(kept, device=values_RC.device)
        if allocation.uniform_width == 1:
            return rows_of(values_RC).abs().mean(dims, keepdim=True)
        peak = self._peak(values_RC)
        is_sign_C = (allocation.widths_C == 1).to(peak.device)
        if not bool(is_sign_C.any()):
            return peak
        if self.config.scale != "channel":
            raise QuantizationError(
                "columns of one bit and of more cannot share a scale",
                hint="set scale: channel, or let the activation's widths be 2 or more",
            )
        return torch.where(is_sign_C, rows_of(values_RC).abs().mean(dims, keepdim=True), peak)

    def _peak(self, values_RC: Tensor) -> Tensor:
        """Largest magnitude of what shares a scale, float32; NaN where there is one."""
        if self.config.scale == "channel":
            low_C, high_C = passes.column_bounds(values_RC, None)
            return torch.maximum(high_C, -low_C).abs().unsqueeze(0)  # of zeros it may be -0
        peak_R1 = passes.row_peaks(values_RC).unsqueeze(1)
        return peak_R1 if self.config.scale == "token" else peak_R1.amax(0, keepdim=True)
