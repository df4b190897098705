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
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from amaqctl.bits import library, words
from amaqctl.bits.words import BLOCK_ROWS
from amaqctl.errors import QuantizationError

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
    return pack_fitting(codes_RC, widths_C)


def pack_fitting(codes_RC: Tensor, widths_C: Tensor) -> Tensor:
    """`pack` of codes that are known to fit their widths."""
    if _all_wide(widths_C):
        return words.pack(codes_RC.to(torch.int16))
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
    if _all_wide(widths_C):
        return words.unpack(packed, num_rows, num_columns)
    codes_K8C = torch.zeros(
        (num_k, BLOCK_ROWS, num_columns), dtype=torch.int16, device=packed.device
    )
    for is_chosen_C, to_codes in ((widths_C == 16, _wide_codes), (widths_C != 16, _narrow_codes)):
        bytes_KS = packed_KS[:, _bytes_of(widths_C, is_chosen_C, packed.device)]
        codes = to_codes(bytes_KS, widths_C[is_chosen_C])
        codes_K8C[:, :, is_chosen_C.to(packed.device)] = codes.to(torch.int16)
    return codes_K8C.reshape(num_k * BLOCK_ROWS, num_columns)[:num_rows]


def _all_wide(widths_C: Tensor) -> bool:
    return bool((widths_C == 16).all()) and bool(widths_C.numel())


def _check_codes_fit(codes_RC: Tensor, widths_C: Tensor) -> None:
    if codes_RC.numel() == 0 or (codes_RC.dtype == torch.int16 and _all_wide(widths_C)):
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


@lru_cache(maxsize=16)
def _kept_bytes(widths: bytes) -> npt.NDArray[np.int64]:
    """Where a column's b bytes stand among the eight of its word: indices into (C · 8)."""
    width_C = np.frombuffer(widths, np.uint8)
    return np.flatnonzero(np.arange(8) < width_C[:, np.newaxis])


@lru_cache(maxsize=16)
def _bytes_of_words(widths: bytes) -> npt.NDArray[np.int64]:
    """Where the eight bytes of each column's word (C · 8) stand in a block of S bytes.

    What follows the column's own b bytes does not count, and is kept within the block.
    """
    width_C = np.frombuffer(widths, np.uint8).astype(np.int64)
    first_C = width_C.cumsum() - width_C
    wanted_C8 = first_C[:, np.newaxis] + np.arange(8)
    return wanted_C8.reshape(-1).clip(max=int(width_C.sum()) - 1)


def _narrow_bytes(codes_K8C: Tensor, widths_C: Tensor) -> Tensor:
    """Columns of at most eight bits to bytes (K, S): fields are joined two by two.

    Two fields fit 16 bits, four 32, so most of the work is done in small types.
    """
    num_k, _, num_columns = codes_K8C.shape
    bits_C = widths_C.to(codes_K8C.device, torch.int16)
    mask_C = ((1 << bits_C.to(torch.int32)) - 1).to(torch.int16)
    # A width of zero has an empty mask; its shifts stay at zero.
    field_K8C = codes_K8C.to(torch.int16) & mask_C
    two_K4C = (field_K8C[:, 1::2] << bits_C).bitwise_or_(field_K8C[:, 0::2]).to(torch.int32)
    two_K4C &= 0xFFFF  # 16 bits without a sign
    four_K2C = (two_K4C[:, 1::2] << (2 * bits_C).to(torch.int32)).bitwise_or_(two_K4C[:, 0::2])
    four_K2C = four_K2C.to(torch.int64).bitwise_and_(0xFFFFFFFF)
    word_KC = (four_K2C[:, 1] << (4 * bits_C).to(torch.int64)).bitwise_or_(four_K2C[:, 0])
    bytes_KL = word_KC.view(torch.uint8).reshape(num_k, num_columns * 8)
    return _columns(bytes_KL, _kept_bytes(widths_C.numpy().tobytes()))


def _narrow_codes(bytes_KS: Tensor, widths_C: Tensor) -> Tensor:
    """Inverse of `_narrow_bytes`: int8 codes (K, 8, C)."""
    num_k, num_columns = bytes_KS.shape[0], widths_C.numel()
    device = bytes_KS.device
    if not bytes_KS.shape[1]:
        return torch.zeros((num_k, BLOCK_ROWS, num_columns), dtype=torch.int8, device=device)
    wanted = _bytes_of_words(widths_C.numpy().tobytes())
    word_KC = _columns(bytes_KS, wanted).reshape(-1).view(torch.int64).reshape(num_k, num_columns)
    bits_C = widths_C.to(device, torch.int64)
    four_bits_C, two_bits_C = 4 * bits_C, (2 * bits_C).to(torch.int32)
    low_KC = (word_KC & ((1 << four_bits_C) - 1)).to(torch.int32)
    four_K2C = torch.stack([low_KC, (word_KC >> four_bits_C).to(torch.int32)], 1)
    high_K2C = four_K2C >> two_bits_C  # bits of a sign that come in are masked off
    two_K4C = torch.stack([four_K2C, high_K2C], 2).reshape(num_k, 4, num_columns).to(torch.int16)
    half_C = half_range(widths_C).to(device, torch.int16)
    mask_C = ((1 << bits_C) - 1).to(torch.int16)
    high_K4C = two_K4C >> bits_C.to(torch.int16)
    field_K8C = torch.stack([two_K4C, high_K4C], 2).reshape(num_k, BLOCK_ROWS, num_columns)
    # Sign extension.
    return field_K8C.bitwise_and_(mask_C).bitwise_xor_(half_C).sub_(half_C).to(torch.int8)


def _columns(bytes_KL: Tensor, wanted: npt.NDArray[np.int64]) -> Tensor:
    """Some columns of a matrix of bytes; on the CPU numpy is six times as fast as torch."""
    if not library.is_on_cpu(bytes_KL):
        return bytes_KL.index_select(1, torch.from_numpy(wanted).to(bytes_KL.device))
    return torch.from_numpy(bytes_KL.numpy().take(wanted, axis=1))


def _wide_bytes(codes_K8C: Tensor, _: Tensor) -> Tensor:
    """Columns of 16 bits to bytes (K, 16 · C)."""
    num_k, num_columns = codes_K8C.shape[0], codes_K8C.shape[2]
    packed = words.pack(codes_K8C.to(torch.int16).reshape(-1, num_columns))
    return packed.reshape(num_k, num_columns * 16)


def _wide_codes(bytes_KS: Tensor, widths_C: Tensor) -> Tensor:
    """Inverse of `_wide_bytes`: int16 codes (K, 8, C)."""
    num_k, num_columns = bytes_KS.shape[0], widths_C.numel()
    codes = words.unpack(bytes_KS.reshape(-1), num_k * BLOCK_ROWS, num_columns)
    return codes.reshape(num_k, BLOCK_ROWS, num_columns)
