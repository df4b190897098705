"""`group`: one width, one scale for each group of neighbouring channels of a token.

The papers' "QAT-Group" baseline (AMAQ, arXiv 2510.05468, compares with it; its group size is not
known, 64 is our choice).

    s = r / n,   code = clamp(round(x / s), -n, n),   x̂ = code · s,   n = 2^(bits-1) - 1

with r = max|x| over the group (mean|x| at one bit). With `zero_point` the grid is asymmetric,
widened to hold zero so that zero stays exact:

    s = (max(x, 0) - min(x, 0)) / (2^bits - 1),   z = round(-min(x, 0) / s) - 2^(bits-1)
    code = clamp(round(x / s) + z, …),   x̂ = (code - z) · s
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from amaqctl.bits import BitAllocation, Grid, Rounding, passes, step_size
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


class GroupQuantizer(Quantizer):
    """Uniform quantization with a scale a token and channel group."""

    option_sets = (
        {},
        {"bits": 1, "group_size": 3},
        {"bits": 3, "group_size": 5, "rounding": "stochastic"},
        {"bits": 4, "group_size": 4, "zero_point": True, "scale_dtype": "float32"},
    )

    class Config(QuantizerConfig):
        """Options of `group`."""

        bits: int = Field(4, ge=1, le=8, description="bit-width")
        group_size: int = Field(64, ge=1, description="neighbouring channels that share a scale")
        zero_point: bool = Field(
            False, description="asymmetric grid with one zero point a group (2 bits or more)"
        )
        rounding: Rounding = Field("nearest", description="nearest or stochastic")
        scale_dtype: ScaleDtype = Field("bfloat16", description="dtype in which ranges are sent")

        def model_post_init(self, _: object) -> None:
            """A sign alone has no zero point."""
            if self.zero_point and self.bits == 1:
                raise ValueError("zero_point needs bits of 2 or more")

    def quantize(self, x: Tensor, context: TensorContext) -> QuantizedTensor:
        """Codes (R, C), ranges (R, G), and zero points (R, G) where they are asked for."""
        values_RC = x.reshape(-1, x.shape[-1]).contiguous()
        allocation = BitAllocation.uniform(self.config.bits, values_RC.shape[1])
        low_RG, high_RG = self._group_bounds(values_RC)
        range_RG = side_values(high_RG - low_RG, self.config.scale_dtype)
        side = {"range": range_RG}
        if self.config.zero_point:
            steps_RG = -low_RG / self._scale_RG(range_RG).clamp(min=torch.finfo(torch.float32).tiny)
            half = 2 ** (self.config.bits - 1)
            side["zero_point"] = (steps_RG.round() - half).clamp(-half, half - 1).to(torch.int8)
        noise = rounding_noise(self.config.rounding, values_RC, self.site, context)
        codes = self._grid(side, allocation).encode(values_RC, noise)
        return QuantizedTensor(tuple(x.shape), x.dtype, codes, side)

    def dequantize(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        """x̂ = (code - z) · s."""
        assert quantized.codes is not None
        grid = self._grid(quantized.side, quantized.codes.allocation)
        return grid.decode(quantized.codes, quantized.dtype).reshape(quantized.shape)

    def layout(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        context: TensorContext,
        allocation: BitAllocation | None,
    ) -> Layout:
        """Codes (R, C), ranges (R, G), and zero points (R, G) where they are asked for."""
        rows, channels = num_rows(shape), shape[-1]
        by_group = (rows, -(-channels // self._size(channels)))
        side = {"range": SideLayout(DTYPES[self.config.scale_dtype], by_group)}
        if self.config.zero_point:
            side["zero_point"] = SideLayout(torch.int8, by_group)
        return Layout(CodesLayout(rows, channels, "tensor", (self.config.bits,)), side)

    def _size(self, num_channels: int) -> int:
        """Channels of a group, which never reaches beyond the token."""
        size: int = self.config.group_size
        return min(size, num_channels)

    def _group_bounds(self, values_RC: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bound (R, G) of each group; the lower one is 0 on the symmetric grid."""
        num_rows, num_channels = values_RC.shape
        size = self._size(num_channels)
        num_groups = -(-num_channels // size)
        missing = num_groups * size - num_channels
        if not missing and not self.config.zero_point and self.config.bits > 1 and num_groups:
            peak_RG = passes.row_peaks(values_RC.reshape(-1, size)).reshape(num_rows, num_groups)
            return torch.zeros_like(peak_RG), peak_RG
        values_RC = rows_of(values_RC)
        grouped = functional.pad(values_RC, (0, missing)).reshape(num_rows, num_groups, size)
        if self.config.zero_point:
            return grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        if self.config.bits == 1:
            counts_G = torch.full((num_groups,), float(size), device=values_RC.device)
            counts_G[-1] -= missing
            return torch.zeros_like(grouped[..., 0]), grouped.abs().sum(-1) / counts_G
        return torch.zeros_like(grouped[..., 0]), grouped.abs().amax(-1)

    def _scale_RG(self, range_RG: Tensor) -> Tensor:
        if self.config.zero_point:
            # Over a tensor: over a Python number CUDA multiplies by the reciprocal.
            num_steps = torch.full((1,), 2.0**self.config.bits - 1, device=range_RG.device)
            return range_RG.float() / num_steps
        return step_size(range_RG.float(), BitAllocation.uniform(self.config.bits, 1))

    def _grid(self, side: Mapping[str, Tensor], allocation: BitAllocation) -> Grid:
        zero_RG = side["zero_point"].float() if self.config.zero_point else None
        size = self._size(allocation.num_columns)
        return Grid(allocation, self._scale_RG(side["range"]), size, zero_RG)
