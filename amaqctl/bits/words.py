"""16-bit words in the packed layout: raw values, as `none` sends them.

In a block of eight rows each column's eight words stand together, so packing turns every block
around. There is nothing else to it.

Legend: R rows, C columns, K = ceil(R/8) blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amaqctl.bits import library

BLOCK_ROWS = 8


def pack(words_RC: Tensor) -> Tensor:
    """int16 words (R, C) to bytes: uint8, (K · 16 · C,); the last block is padded with zeros."""
    num_rows, num_columns = words_RC.shape
    num_k = -(-num_rows // BLOCK_ROWS)
    if library.is_on_cpu(words_RC) and (compiled := library.loaded()) is not None:
        words_RC = words_RC.contiguous()
        data = torch.empty(num_k * BLOCK_ROWS * num_columns, dtype=torch.int16)
        compiled.amaqctl_pack_words(words_RC.data_ptr(), data.data_ptr(), num_rows, num_columns)
        return data.view(torch.uint8)
    missing = num_k * BLOCK_ROWS - num_rows
    if missing:
        words_RC = torch.cat([words_RC, words_RC.new_zeros((missing, num_columns))])
    turned = words_RC.reshape(num_k, BLOCK_ROWS, num_columns).transpose(1, 2)
    return turned.reshape(-1).view(torch.uint8)


def unpack(data: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Inverse of `pack`: int16, (R, C)."""
    words = data.contiguous().view(torch.int16)
    if library.is_on_cpu(data) and (compiled := library.loaded()) is not None:
        words_RC = torch.empty((num_rows, num_columns), dtype=torch.int16)
        compiled.amaqctl_unpack_words(words.data_ptr(), words_RC.data_ptr(), num_rows, num_columns)
        return words_RC
    turned = words.reshape(-1, num_columns, BLOCK_ROWS).transpose(1, 2)
    return turned.reshape(-1, num_columns)[:num_rows]
