"""Bit-widths, the grid, and the packed layout: every byte of codes is made and read here.

Legend: R rows of codes, C columns; all codes of one column share one bit-width.
"""

from amaqctl.bits.allocation import Axis, BitAllocation
from amaqctl.bits.codes import PackedCodes
from amaqctl.bits.grid import (
    Grid,
    Rounding,
    decode,
    encode,
    largest_code,
    nearest_codes,
    step_size,
    values_of_codes,
)
from amaqctl.bits.grid_tables import PADDING
from amaqctl.bits.packing import WIDTHS, pack, packed_bytes, unpack
from amaqctl.bits.words import BLOCK_ROWS

__all__ = [
    "BLOCK_ROWS",
    "PADDING",
    "WIDTHS",
    "Axis",
    "BitAllocation",
    "Grid",
    "PackedCodes",
    "Rounding",
    "decode",
    "encode",
    "largest_code",
    "nearest_codes",
    "pack",
    "packed_bytes",
    "step_size",
    "unpack",
    "values_of_codes",
]
