"""What makes a grid: widths, step sizes, and what else is known of rows and columns.

Legend: R rows, C columns of one width each; P, Q rows of tables, G groups of columns.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from amaqctl.bits.allocation import BitAllocation

PADDING = 255
"""Kind of a row whose values count as zero."""


@dataclass(frozen=True)
class GridTables:
    """How a matrix (R, C) is quantized: everything but its values.

    A table with one row serves all rows of the matrix; any other has one for each of them, or for
    each of the kinds that ``row_kind`` names.

    Args:
        allocation: C bit-widths of 0–8.
        scale: float32 step sizes, (P, G), on the device of the values. A zero gives code 0; a
            negative one turns the column's sign, of use with ``all_codes`` only.
        group_size: neighbouring columns that share a step size; C, or more, for all of them.
        zero_point: integers as float32, (P, G), for the asymmetric grid (widths >= 2).
        offset: float32, (Q, C): subtracted before the grid, and added to what is decoded.
        row_kind: uint8, (R,): which row of the tables is meant, or `PADDING`.
        all_codes: use the code -2^(b-1) too, which the symmetric grid leaves unused.
    """

    allocation: BitAllocation
    scale: Tensor
    group_size: int = 1
    zero_point: Tensor | None = None
    offset: Tensor | None = None
    row_kind: Tensor | None = None
    all_codes: bool = False

    @property
    def widths_C(self) -> Tensor:
        """uint8, on the CPU."""
        return self.allocation.widths_C
