"""Codes to bytes and back, in plain torch: the reference for every faster implementation.

Layout. Codes are a matrix of R rows and C columns; column c has width b_c. Rows go in blocks of
eight, the last one padded with zero rows. In a block, column c takes exactly b_c bytes, in
natural column order, at byte offset b_0 + … + b_{c-1}. Those bytes are the little-endian word

    sum over i = 0…7 of (code_i mod 2^b_c) · 2^(b_c · i)

over the block's eight rows: two's complement, so a code of width b lies in
[-2^(b-1), 2^(b-1) - 1]. A column of width 0 takes no bytes and decodes to 0. Width 16 carries raw
16-bit words (the `none` quantizer). Each block decodes alone.

Legend: R rows, C columns, K = ceil(R/8) blocks.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from amaqctl.errors import QuantizationError

BLOCK_ROWS = 8
WIDTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 16)

# Words are viewed as bytes in place, which is the layout above only on such machines.
assert sys.byteorder == "little", "the plain torch packer needs a little-endian machine"


def num_blocks(num_rows: int) -> int:
    """K, the number of eight-row blocks that hold ``num_rows`` rows."""
    return -(-num_rows // BLOCK_ROWS)


def packed_bytes(num_rows: int, widths_C: Tensor) -> int:
    """Exact size in bytes of ``num_rows`` rows: ceil(R/8) · sum of widths."""
    return num_blocks(num_rows) * int(widths_C.sum(dtype=torch.int64))


def half_range(widths: Tensor) -> Tensor:
    """2^(b-1) of each width, int32, and 0 for width 0. By shifts: a power may be off by an ulp."""
    bits = widths.to(torch.int32)
    return torch.where(bits > 0, torch.ones_like(bits) << (bits - 1).clamp(min=0), 0)


def pack(codes_RC: Tensor, widths_C: Tensor) -> Tensor:
    """Pack a code matrix.

    Args:
        codes_RC: int8 or int16, shape (R, C), two's complement.
        widths_C: uint8, shape (C,), bits.

    Returns:
        uint8, shape (ceil(R/8) · sum(widths),).

    Raises:
        QuantizationError: shapes disagree, or a code does not fit its width.
    """
    num_columns = codes_RC.shape[1]
    if widths_C.shape != (num_columns,):
        raise QuantizationError(f"{num_columns} columns of codes but {widths_C.numel()} bit-widths")
    _check_codes_fit(codes_RC, widths_C)
    blocks_K8C = _in_blocks(codes_RC)
    if not bool((widths_C == 16).any()):
        return _narrow_bytes(blocks_K8C, widths_C).reshape(-1)
    num_k = blocks_K8C.shape[0]
    packed_KS = torch.empty(
        (num_k, int(widths_C.sum(dtype=torch.int64))), dtype=torch.uint8, device=codes_RC.device
    )
    for is_chosen_C, to_bytes in ((widths_C == 16, _wide_bytes), (widths_C != 16, _narrow_bytes)):
        columns = is_chosen_C.nonzero().squeeze(1).to(codes_RC.device)
        chosen_K8C = blocks_K8C.index_select(2, columns)
        packed_KS[:, _bytes_of(widths_C, is_chosen_C, codes_RC.device)] = to_bytes(
            chosen_K8C, widths_C[is_chosen_C]
        )
    return packed_KS.reshape(-1)


def unpack(packed: Tensor, num_rows: int, widths_C: Tensor) -> Tensor:
    """Invert `pack`.

    Args:
        packed: uint8 vector of exactly ``packed_bytes(num_rows, widths_C)`` bytes.
        num_rows: R.
        widths_C: uint8, shape (C,), bits.

    Returns:
        Codes, shape (R, C), int16 when a width is 16, else int8.

    Raises:
        QuantizationError: the number of bytes is not the one that rows and widths ask for.
    """
    expected = packed_bytes(num_rows, widths_C)
    if packed.numel() != expected:
        raise QuantizationError(f"{packed.numel()} bytes of codes where {expected} are needed")
    num_k, num_columns = num_blocks(num_rows), widths_C.numel()
    packed_KS = packed.reshape(num_k, int(widths_C.sum(dtype=torch.int64)))
    if not bool((widths_C == 16).any()):
        codes_K8C = _narrow_codes(packed_KS, widths_C)
        return codes_K8C.reshape(num_k * BLOCK_ROWS, num_columns)[:num_rows]
    codes_K8C = torch.zeros(
        (num_k, BLOCK_ROWS, num_columns), dtype=torch.int16, device=packed.device
    )
    for is_chosen_C, to_codes in ((widths_C == 16, _wide_codes), (widths_C != 16, _narrow_codes)):
        bytes_KS = packed_KS[:, _bytes_of(widths_C, is_chosen_C, packed.device)]
        codes = to_codes(bytes_KS, widths_C[is_chosen_C])
        codes_K8C[:, :, is_chosen_C.to(packed.device)] = codes.to(torch.int16)
    return codes_K8C.reshape(num_k * BLOCK_ROWS, num_columns)[:num_rows]


def _check_codes_fit(codes_RC: Tensor, widths_C: Tensor) -> None:
    if codes_RC.numel() == 0:
        return
    low_C, high_C = (v.cpu().to(torch.int32) for v in codes_RC.aminmax(dim=0))
    half_C = half_range(widths_C)
    top_C = (half_C - 1).clamp(min=0)
    misfits = ((low_C < -half_C) | (high_C > top_C)).nonzero()
    if misfits.numel():
        column = int(misfits[0])
        raise QuantizationError(
            f"codes {int(low_C[column])} to {int(high_C[column])} of column {column} do not fit "
            f"{int(widths_C[column])} bits"
        )


def _in_blocks(codes_RC: Tensor) -> Tensor:
    num_rows, num_columns = codes_RC.shape
    num_k = num_blocks(num_rows)
    missing = num_k * BLOCK_ROWS - num_rows
    if missing:
        codes_RC = torch.cat([codes_RC, codes_RC.new_zeros((missing, num_columns))])
    return codes_RC.reshape(num_k, BLOCK_ROWS, num_columns)


def _bytes_of(widths_C: Tensor, is_chosen_C: Tensor, device: torch.device) -> Tensor:
    """Mask over a block's S bytes: which belong to the chosen columns."""
    return is_chosen_C.repeat_interleave(widths_C.to(torch.int64)).to(device)


def _kept_bytes(widths_C: Tensor, device: torch.device) -> Tensor:
    """Where a column's b bytes stand among the eight of its word: indices into (C · 8)."""
    is_kept_C8 = torch.arange(8) < widths_C.unsqueeze(1)
    return is_kept_C8.reshape(-1).nonzero().squeeze(1).to(device)


def _narrow_bytes(codes_K8C: Tensor, widths_C: Tensor) -> Tensor:
    """Columns of at most eight bits to bytes (K, S): all widths at once, by shifts a column."""
    num_k, _, num_columns = codes_K8C.shape
    bits_C = widths_C.to(codes_K8C.device, torch.int64)
    mask_C = (1 << bits_C) - 1
    word_KC = torch.zeros((num_k, num_columns), dtype=torch.int64, device=codes_K8C.device)
    # A width of zero has an empty mask; its shifts stay at zero.
    for row in range(BLOCK_ROWS):
        word_KC |= (codes_K8C[:, row].to(torch.int64) & mask_C) << (bits_C * row)
    bytes_KS = word_KC.view(torch.uint8).reshape(num_k, num_columns * 8)
    return bytes_KS.index_select(1, _kept_bytes(widths_C, codes_K8C.device))


def _narrow_codes(bytes_KS: Tensor, widths_C: Tensor) -> Tensor:
    """Inverse of `_narrow_bytes`: int8 codes (K, 8, C)."""
    num_k, num_columns = bytes_KS.shape[0], widths_C.numel()
    device = bytes_KS.device
    spread_KS = torch.zeros((num_k, num_columns * 8), dtype=torch.uint8, device=device)
    spread_KS[:, _kept_bytes(widths_C, device)] = bytes_KS
    word_KC = spread_KS.reshape(-1).view(torch.int64).reshape(num_k, num_columns)
    bits_C = widths_C.to(device, torch.int64)
    mask_C, half_C = (1 << bits_C) - 1, half_range(widths_C).to(device, torch.int64)
    codes_K8C = torch.empty((num_k, BLOCK_ROWS, num_columns), dtype=torch.int8, device=device)
    for row in range(BLOCK_ROWS):
        unsigned_KC = (word_KC >> (bits_C * row)) & mask_C
        codes_K8C[:, row] = (unsigned_KC ^ half_C) - half_C  # sign extension
    return codes_K8C


def _wide_bytes(codes_K8C: Tensor, _: Tensor) -> Tensor:
    """Columns of 16 bits to bytes (K, 16 · C)."""
    num_k = codes_K8C.shape[0]
    words = codes_K8C.to(torch.int16).transpose(1, 2).reshape(-1)
    return words.view(torch.uint8).reshape(num_k, codes_K8C.shape[2] * 16)


def _wide_codes(bytes_KS: Tensor, widths_C: Tensor) -> Tensor:
    """Inverse of `_wide_bytes`: int16 codes (K, 8, C)."""
    words = bytes_KS.reshape(-1).view(torch.int16)
    return words.reshape(bytes_KS.shape[0], widths_C.numel(), BLOCK_ROWS).transpose(1, 2)
