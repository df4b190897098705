"""`PackedCodes`: a code matrix as the bytes that cross the wire, with its shape and widths."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from amaqctl.bits.allocation import BitAllocation
from amaqctl.bits.packing import pack, packed_bytes, unpack
from amaqctl.errors import QuantizationError


@dataclass(frozen=True)
class PackedCodes:
    """R x C codes in the layout of `amaqctl.bits.packing`.

    Args:
        data: uint8 vector of ceil(R/8) · sum(widths) bytes.
        num_rows: R.
        allocation: C bit-widths.

    Raises:
        QuantizationError: the number of bytes does not follow from rows and widths.
    """

    data: Tensor
    num_rows: int
    allocation: BitAllocation

    def __post_init__(self) -> None:
        expected = packed_bytes(self.num_rows, self.allocation.widths_C)
        if self.data.numel() != expected:
            raise QuantizationError(f"{self.data.numel()} bytes of codes where {expected} follow")

    @classmethod
    def pack(cls, codes_RC: Tensor, allocation: BitAllocation) -> PackedCodes:
        """Pack int8 or int16 codes (R, C); see `amaqctl.bits.packing.pack` for errors."""
        return cls(pack(codes_RC, allocation.widths_C), codes_RC.shape[0], allocation)

    def unpack(self) -> Tensor:
        """The codes, (R, C), int8 or int16."""
        return unpack(self.data, self.num_rows, self.allocation.widths_C)
