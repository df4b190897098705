"""`BitAllocation`: one bit-width for each channel, position or tensor, with the axis named."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from amaqctl.bits.packing import WIDTHS
from amaqctl.errors import QuantizationError

Axis = Literal["channel", "position", "tensor"]


@dataclass(frozen=True)
class BitAllocation:
    """Which bit-width each column of codes has.

    Args:
        widths_C: uint8 on the CPU, shape (C,), each one of 0–8 or 16 bits.
        axis: what a column is: a channel of the hidden state, a position of the sequence, or
            nothing in particular (``tensor``).

    Raises:
        QuantizationError: not a vector of uint8, or a width that the packer does not know.
    """

    widths_C: Tensor
    axis: Axis

    def __post_init__(self) -> None:
        widths_C = self.widths_C
        if widths_C.dtype != torch.uint8 or widths_C.dim() != 1 or widths_C.device.type != "cpu":
            raise QuantizationError(
                f"bit-widths must be a uint8 vector on the CPU, got {widths_C.dtype} of shape "
                f"{tuple(widths_C.shape)} on {widths_C.device}"
            )
        unknown = set(self.distinct) - set(WIDTHS)
        if unknown:
            raise QuantizationError(f"bit-width {min(unknown)} is not one of 0 to 8 or 16")

    @cached_property
    def distinct(self) -> tuple[int, ...]:
        """The widths in bits that there are, ascending."""
        return tuple(np.flatnonzero(np.bincount(self.widths_C.numpy())).tolist())

    @classmethod
    def uniform(cls, bits: int, num_columns: int, axis: Axis = "tensor") -> BitAllocation:
        """``bits`` for every one of ``num_columns`` columns."""
        return cls(torch.full((num_columns,), bits, dtype=torch.uint8), axis)

    @property
    def num_columns(self) -> int:
        """C."""
        return self.widths_C.numel()

    @property
    def uniform_width(self) -> int | None:
        """The width in bits that all columns share; None when they differ or there are none."""
        return self.distinct[0] if len(self.distinct) == 1 else None

    @property
    def mean_bits(self) -> float:
        """Mean width in bits a value (0 for no columns), codes alone."""
        return float(self.widths_C.double().mean()) if self.num_columns else 0.0

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, BitAllocation)
            and self.axis == other.axis
            and torch.equal(self.widths_C, other.widths_C)
        )

    def __hash__(self) -> int:
        return hash((self.axis, tuple(self.widths_C.tolist())))
