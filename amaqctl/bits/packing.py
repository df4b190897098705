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
    num_k = blocks_K8C.shape[0]
    distinct = widths_C.unique().tolist()
    if len(distinct) == 1:
        return _pack_columns(blocks_K8C, distinct[0]).reshape(-1)
    offsets_C = _byte_offsets(widths_C)
    packed_KS = torch.empty(
        (num_k, int(widths_C.sum(dtype=torch.int64))), dtype=torch.uint8, device=codes_RC.device
    )
    for bits in distinct:
        columns = _columns_of(widths_C, bits, codes_RC.device)
        bytes_KCb = _pack_columns(blocks_K8C.index_select(2, columns), bits)
        packed_KS[:, _byte_index(offsets_C, columns, bits)] = bytes_KCb.flatten(1)
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
    distinct = widths_C.unique().tolist()
    dtype = torch.int16 if 16 in distinct else torch.int8
    packed_KS = packed.reshape(num_k, int(widths_C.sum(dtype=torch.int64)))
    if len(distinct) == 1:
        bits = distinct[0]
        codes = _unpack_columns(packed_KS.reshape(num_k, num_columns, bits), dtype)
        return codes.reshape(num_k * BLOCK_ROWS, num_columns)[:num_rows]
    offsets_C = _byte_offsets(widths_C)
    codes_K8C = torch.zeros((num_k, BLOCK_ROWS, num_columns), dtype=dtype, device=packed.device)
    for bits in distinct:
        columns = _columns_of(widths_C, bits, packed.device)
        index = _byte_index(offsets_C, columns, bits)
        bytes_KCb = packed_KS[:, index].reshape(num_k, columns.numel(), bits)
        codes_K8C[:, :, columns] = _unpack_columns(bytes_KCb, dtype)
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


def _byte_offsets(widths_C: Tensor) -> Tensor:
    return widths_C.cumsum(0, dtype=torch.int64) - widths_C


def _columns_of(widths_C: Tensor, bits: int, device: torch.device) -> Tensor:
    return (widths_C == bits).nonzero().squeeze(1).to(device)


def _byte_index(offsets_C: Tensor, columns: Tensor, bits: int) -> Tensor:
    within = torch.arange(bits, device=columns.device)
    return (offsets_C.to(columns.device)[columns].unsqueeze(1) + within).reshape(-1)


def _pack_columns(codes_K8C: Tensor, bits: int) -> Tensor:
    """One width's columns to bytes (K, C, bits)."""
    num_k, _, num_columns = codes_K8C.shape
    if bits == 16:
        words = codes_K8C.to(torch.int16).transpose(1, 2).reshape(-1)
        return words.view(torch.uint8).reshape(num_k, num_columns, 16)
    word_KC = torch.zeros((num_k, num_columns), dtype=torch.int64, device=codes_K8C.device)
    mask = (1 << bits) - 1
    for row in range(BLOCK_ROWS if bits else 0):
        word_KC |= (codes_K8C[:, row].to(torch.int64) & mask) << (bits * row)
    return word_KC.unsqueeze(-1).view(torch.uint8)[..., :bits]


def _unpack_columns(bytes_KCb: Tensor, dtype: torch.dtype) -> Tensor:
    """Inverse of `_pack_columns`: codes (K, 8, C)."""
    num_k, num_columns, bits = bytes_KCb.shape
    if bits == 16:
        words = bytes_KCb.reshape(-1).view(torch.int16)
        return words.reshape(num_k, num_columns, BLOCK_ROWS).transpose(1, 2).contiguous().to(dtype)
    codes_K8C = torch.zeros((num_k, BLOCK_ROWS, num_columns), dtype=dtype, device=bytes_KCb.device)
    if not bits:
        return codes_K8C
    eight_KC8 = torch.zeros((num_k, num_columns, 8), dtype=torch.uint8, device=bytes_KCb.device)
    eight_KC8[..., :bits] = bytes_KCb
    word_KC = eight_KC8.view(torch.int64).squeeze(-1)
    mask, half = (1 << bits) - 1, 1 << (bits - 1)
    for row in range(BLOCK_ROWS):
        unsigned = (word_KC >> (bits * row)) & mask
        codes_K8C[:, row] = ((unsigned ^ half) - half).to(dtype)  # sign extension
    return codes_K8C
