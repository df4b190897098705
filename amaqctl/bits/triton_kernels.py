"""The kernels behind `amaqctl.bits.triton_codec`, which says what they compute and why so.

A program does a tile of columns of some blocks, one after the other. A table is a scale, zero
point or offset of the grid, of one row for all rows of the values, one a row, or one a kind of
row (the rules ``first``, ``same`` and ``kind``); what does not exist is None, and costs nothing.

Legend: R rows, C columns, S bytes of a block of eight rows, G columns of a scale.
"""

# Compiled by triton, whose types are not Python's.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tile(C, SHARED: tl.constexpr, TILE: tl.constexpr, BLOCKS: tl.constexpr):
    """A program's columns and the first of its blocks."""
    num_tiles = tl.cdiv(C, TILE)
    # Neighbours in time share rows: their pieces of them lie side by side in memory.
    columns = (tl.program_id(0) % num_tiles) * TILE + tl.arange(0, TILE)
    if not ((SHARED == 1 or SHARED == 2) or (SHARED == 4 or SHARED == 8)):
        # Bytes of neighbouring columns are stored one by one: neighbouring threads, not one
        # thread, should have them, and so it must have the values, or each byte changes hands.
        columns = tl.max_contiguous(columns, 1)
    return columns, (tl.program_id(0) // num_tiles) * BLOCKS


@triton.jit
def _bits_and_starts(bits_ptr, starts_ptr, columns, inside, SHARED: tl.constexpr):
    """Widths of the columns, and where in a block their bytes start."""
    if SHARED > 0:
        bits = tl.full(columns.shape, SHARED, tl.int32)  # shifts by a constant
        starts = columns * SHARED
    else:
        bits = tl.load(bits_ptr + columns, mask=inside, other=0)
        starts = tl.load(starts_ptr + columns, mask=inside, other=0)
    return bits, starts


@triton.jit
def _kind(kind_ptr, row, R):
    """The kind of a row, 255 for padding; None where rows have none."""
    kind = None
    if kind_ptr is not None:
        kind = tl.load(kind_ptr + row, mask=row < R, other=0).to(tl.int32)
    return kind


@triton.jit
def _first_row(table_ptr, columns, inside, ONE: tl.constexpr):
    """A table's first row at the program's columns, a scalar if it has but one; None for None."""
    entries = None
    if table_ptr is not None:
        entries = tl.load(table_ptr) if ONE else tl.load(table_ptr + columns, mask=inside, other=0)
    return entries


@triton.jit
def _row_of(table_ptr, first, kind, row, R, stride, columns, inside,
            RULE: tl.constexpr, ONE: tl.constexpr):  # fmt: skip
    """What `_first_row` gives, of the row that serves row ``row`` of the values."""
    entries = first
    if table_ptr is not None and RULE != "first":
        # Rows past the last may read anything: they are not kept.
        at = tl.minimum(row, R - 1) if RULE == "same" else tl.where(kind == 255, 0, kind)
        row_ptr = table_ptr + tl.cast(at, tl.int64) * stride
        entries = tl.load(row_ptr) if ONE else tl.load(row_ptr + columns, mask=inside, other=0)
    return entries


@triton.jit
def _rounded(q):
    """rint, half to even, of any float32. The core language has none that is interpreted too."""
    even = tl.where(q < 0, (q - 8388608.0) + 8388608.0, (q + 8388608.0) - 8388608.0)
    return tl.where(tl.abs(q) >= 8388608.0, q, even)


@triton.jit
def _floored(q):
    """The floor of any float32. That of the core language takes a tiny negative number for 0."""
    nearest = _rounded(q)
    return tl.where(nearest > q, nearest - 1.0, nearest)


@triton.jit
def _code(v, noise, scale, zero, half, LEAST: tl.constexpr, ALL_CODES: tl.constexpr):
    """Codes as uint32, whose lowest eight bits are two's complement."""
    # -v / |s| is v / s, bit for bit.
    q = tl.div_rn(v, tl.where(tl.abs(scale) > 0, scale, float("inf")))
    if noise is not None:
        q = _floored(q + noise)
    if zero is not None:
        q = (_rounded(q) if noise is None else q) + zero
    # The bounds are integers, so that clamping may come before the last rounding.
    low = -half if ALL_CODES else 1.0 - half
    q = tl.minimum(tl.maximum(q, low), half - 1.0)
    if LEAST <= 1:
        is_negative = tl.where(scale < 0, v > 0, v < 0)
        q = tl.where(half == 1.0, tl.where(is_negative, -1.0, 0.0), q)
    # 1.5 · 2^23: the sum rounds to an integer, half to even, and ends in its bits.
    return (q + 12582912.0).to(tl.uint32, bitcast=True)


@triton.jit
def _store_word(data_ptr, block, C, S, low, high, bits, starts, columns, inside,
                MOST: tl.constexpr, SHARED: tl.constexpr):  # fmt: skip
    """Columns' bytes, whose word is given as rows 0-3 and 4-7, or all in ``low`` if MOST <= 4."""
    if MOST > 4:
        # Shifts by 4b and by 32 - 4b in two steps: one step of 32 is undefined.
        up, down = bits * 2, 16 - bits * 2
        low, high = low | ((high << up) << up), (high >> down) >> down
    if (SHARED == 1 or SHARED == 2) or SHARED == 4:
        word_ptr = data_ptr + tl.cast(block, tl.int64) * C + columns
        tl.store(word_ptr, low.to(data_ptr.dtype.element_ty), mask=inside)
    elif SHARED == 8:
        word_ptr = data_ptr + tl.cast(block, tl.int64) * C + columns
        tl.store(word_ptr, (high.to(tl.int64) << 32) | low.to(tl.int64), mask=inside)
    else:
        byte_ptr = data_ptr + tl.cast(block, tl.int64) * S + starts
        for byte in tl.static_range(MOST):
            half = low if byte < 4 else high
            shifted = (half >> (8 * (byte % 4))).to(tl.uint8)
            tl.store(byte_ptr + byte, shifted, mask=inside & (byte < bits))


@triton.jit
def _load_word(data_ptr, block, C, S, bits, starts, columns, inside,
               MOST: tl.constexpr, SHARED: tl.constexpr):  # fmt: skip
    """Inverse of `_store_word`: (low, high), whose bits past the columns' rows are arbitrary."""
    low = tl.zeros(columns.shape, tl.uint32)
    high = tl.zeros(columns.shape, tl.uint32)
    if (SHARED == 1 or SHARED == 2) or SHARED == 4:
        word_ptr = data_ptr + tl.cast(block, tl.int64) * C + columns
        low = tl.load(word_ptr, mask=inside, other=0).to(tl.uint32)
    elif SHARED == 8:
        word_ptr = data_ptr + tl.cast(block, tl.int64) * C + columns
        word = tl.load(word_ptr, mask=inside, other=0)
        low, high = word.to(tl.uint32), (word >> 32).to(tl.uint32)
    else:
        byte_ptr = data_ptr + tl.cast(block, tl.int64) * S + starts
        for byte in tl.static_range(MOST):
            loaded = tl.load(byte_ptr + byte, mask=inside & (byte < bits), other=0)
            shifted = loaded.to(tl.uint32) << (8 * (byte % 4))
            if byte < 4:
                low = low | shifted
            else:
                high = high | shifted
    if MOST > 4:
        up, down = 16 - bits * 2, bits * 2
        high = ((low >> down) >> down) | ((high << up) << up)
    return low, high


@triton.jit
def _value(code, scale, zero, offset, bits, LEAST: tl.constexpr):
    """What a code, as a float, stands for."""
    f = code
    if zero is not None:
        f = f - zero
    if LEAST <= 1:
        f = tl.where(bits == 1, 1.0 + 2.0 * code, f)
    y = f * scale
    if LEAST == 0:
        y = tl.where(bits == 0, 0.0, y)
    if offset is not None:
        y = y + offset
    return y


# Numbers of rows vary between calls: no kernel of its own for multiples of 16.
@triton.jit(do_not_specialize=["R", "S", "G"])
def encode_kernel(
    values_ptr, noise_ptr, data_ptr, bits_ptr, starts_ptr, scale_ptr, zero_ptr, offset_ptr,
    kind_ptr, R, C, S, G, GROUP, SCALE_ROW: tl.constexpr, OFFSET_ROW: tl.constexpr,
    ONE_SCALE: tl.constexpr, LEAST: tl.constexpr, MOST: tl.constexpr, SHARED: tl.constexpr,
    FULL: tl.constexpr, TILE: tl.constexpr, BLOCKS: tl.constexpr, ALL_CODES: tl.constexpr,
):  # fmt: skip
    columns, first = _tile(C, SHARED, TILE, BLOCKS)
    inside = columns < C
    bits, starts = _bits_and_starts(bits_ptr, starts_ptr, columns, inside, SHARED)
    keep = ((1 << bits) - 1).to(tl.uint32)
    half = ((1 << bits) >> 1).to(tl.float32)
    groups = columns // GROUP
    first_scale = _first_row(scale_ptr, groups, inside, ONE_SCALE)
    first_zero = _first_row(zero_ptr, groups, inside, ONE_SCALE)
    first_offset = _first_row(offset_ptr, columns, inside, False)
    for turn in tl.range(BLOCKS):
        block = first + turn
        in_block = inside if FULL else inside & (block * 8 < R)
        low = tl.zeros(columns.shape, tl.uint32)
        high = tl.zeros(columns.shape, tl.uint32)
        # All loads before the first division, whose slow path is a branch that no load passes.
        loaded = ()
        for step in tl.static_range(8):
            row = block * 8 + step
            here = inside if FULL else inside & (row < R)
            row_ptr = values_ptr + tl.cast(row, tl.int64) * C
            values = tl.load(row_ptr + columns, mask=here, other=0)
            loaded = loaded + (values,)  # noqa: RUF005 - unpacking is not compiled
        for step in tl.static_range(8):
            # From the last row down: each shifts those after it up by its width.
            row = block * 8 + 7 - step
            kind = _kind(kind_ptr, row, R)
            scale = _row_of(
                scale_ptr, first_scale, kind, row, R, G, groups, inside, SCALE_ROW, ONE_SCALE
            )
            zero = _row_of(
                zero_ptr, first_zero, kind, row, R, G, groups, inside, SCALE_ROW, ONE_SCALE
            )
            offset = _row_of(
                offset_ptr, first_offset, kind, row, R, C, columns, inside, OFFSET_ROW, False
            )
            v = loaded[7 - step].to(tl.float32)
            if offset is not None:
                v = v - offset
            if kind is not None:
                v = tl.where(kind == 255, 0.0, v)
            noise = None
            if noise_ptr is not None:
                here = inside if FULL else inside & (row < R)
                row_ptr = noise_ptr + tl.cast(row, tl.int64) * C
                noise = tl.load(row_ptr + columns, mask=here, other=0)
            code = _code(v, noise, scale, zero, half, LEAST, ALL_CODES) & keep
            if not FULL:
                code = tl.where(row < R, code, 0)
            if step < 4 and MOST > 4:
                high = (high << bits) | code
            else:
                low = (low << bits) | code
        _store_word(data_ptr, block, C, S, low, high, bits, starts, columns, in_block, MOST, SHARED)


@triton.jit(do_not_specialize=["R", "S", "G"])
def decode_kernel(
    data_ptr, values_ptr, bits_ptr, starts_ptr, scale_ptr, zero_ptr, offset_ptr, kind_ptr,
    R, C, S, G, GROUP, SCALE_ROW: tl.constexpr, OFFSET_ROW: tl.constexpr,
    ONE_SCALE: tl.constexpr, LEAST: tl.constexpr, MOST: tl.constexpr, SHARED: tl.constexpr,
    FULL: tl.constexpr, TILE: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    columns, first = _tile(C, SHARED, TILE, BLOCKS)
    inside = columns < C
    bits, starts = _bits_and_starts(bits_ptr, starts_ptr, columns, inside, SHARED)
    keep = ((1 << bits) - 1).to(tl.uint32)
    half = (1 << bits) >> 1
    # The bits of 2^23 + n end in those of n: a code, made unsigned by + half, becomes a float.
    float_bits, bias = (half | 0x4B000000).to(tl.uint32), half.to(tl.float32) + 8388608.0
    groups = columns // GROUP
    first_scale = _first_row(scale_ptr, groups, inside, ONE_SCALE)
    first_zero = _first_row(zero_ptr, groups, inside, ONE_SCALE)
    first_offset = _first_row(offset_ptr, columns, inside, False)
    for turn in tl.range(BLOCKS):
        block = first + turn
        in_block = inside if FULL else inside & (block * 8 < R)
        low, high = _load_word(data_ptr, block, C, S, bits, starts, columns, in_block, MOST, SHARED)
        for step in tl.static_range(8):
            row = block * 8 + step
            kind = _kind(kind_ptr, row, R)
            scale = _row_of(
                scale_ptr, first_scale, kind, row, R, G, groups, inside, SCALE_ROW, ONE_SCALE
            )
            zero = _row_of(
                zero_ptr, first_zero, kind, row, R, G, groups, inside, SCALE_ROW, ONE_SCALE
            )
            offset = _row_of(
                offset_ptr, first_offset, kind, row, R, C, columns, inside, OFFSET_ROW, False
            )
            if step < 4 or MOST <= 4:
                word = low
                low = low >> bits
            else:
                word = high
                high = high >> bits
            code = ((word & keep) ^ float_bits).to(tl.float32, bitcast=True) - bias
            y = _value(code, scale, zero, offset, bits, LEAST)
            if values_ptr.dtype.element_ty == tl.float16:
                y = tl.minimum(tl.maximum(y, -65504.0), 65504.0)
            here = inside if FULL else inside & (row < R)
            row_ptr = values_ptr + tl.cast(row, tl.int64) * C
            tl.store(row_ptr + columns, y.to(values_ptr.dtype.element_ty), mask=here)
