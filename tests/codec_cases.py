"""Random grids through the compiled codec and through plain torch, for so many seconds.

    python tests/codec_cases.py SECONDS SEED

`scripts/sanitize.py` runs it with a codec that was built to notice every stray access; buffers are
allocated by torch just as long as they must be.
"""

from __future__ import annotations

import random
import sys
import time

import torch

from amaqctl.bits import PADDING, BitAllocation, Grid, grid_rows, library, native, passes, words

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def main(seconds: float, seed: int) -> int:
    """Exits with 1 at the first difference."""
    if library.loaded() is None:
        print(f"no compiled codec: {library.state()}")
        return 1
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        if not _same(seed + count):
            print(f"case {seed + count} differs")
            return 1
        count += 1
    print(f"{count} cases ({library.state()}): no difference, no stray access")
    return 0


def _same(seed: int) -> bool:
    choose, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    rows, columns = choose.choice([0, 1, 3, 8, 9, 31]), choose.choice([1, 2, 63, 64, 65, 130])
    grid = _grid(choose, generator, rows, columns)
    values = (torch.randn(rows, columns, generator=generator) * 3).to(choose.choice(DTYPES))
    noise = torch.rand(rows, columns, generator=generator) if choose.random() < 0.3 else None
    data = native.encode(values, grid, noise)
    dtype = choose.choice(DTYPES)
    decoded = native.decode(data, rows, grid, dtype)
    plain = grid_rows.encode(values, grid, noise)
    same = torch.equal(data, plain)
    again = grid_rows.decode(plain, rows, grid, dtype)
    same &= torch.equal(decoded.view(torch.uint8), again.view(torch.uint8))
    integers = torch.randint(-99, 99, (rows, columns), generator=generator).to(torch.int16)
    same &= torch.equal(words.unpack(words.pack(integers), rows, columns), integers)
    peaks = values.abs().amax(1).float()
    same &= torch.equal(passes.row_peaks(values), peaks)
    passes.column_bounds(values, grid.row_kind)
    step = torch.rand(3, columns, generator=generator)
    top = torch.full((3, columns), 3.0)
    passes.candidate_errors(values.float(), step, -top, top)
    return same


def _grid(choose: random.Random, generator: torch.Generator, rows: int, columns: int) -> Grid:
    widths = torch.randint(0, 9, (columns,), generator=generator).to(torch.uint8)
    group = choose.choice([1, 3, 64, columns])
    kinds = torch.tensor([0, 1, PADDING], dtype=torch.uint8)
    kind = kinds[torch.randint(3, (rows,), generator=generator)] if choose.random() < 0.5 else None
    of_rows = choose.choice([1, 2 if kind is not None else max(rows, 1)])
    scale = torch.rand(of_rows, -(-columns // group), generator=generator)
    zero_point = None
    if choose.random() < 0.3:
        widths.clamp_(min=2)
        zero_point = torch.randint(-9, 9, scale.shape, generator=generator).float()
    offset = torch.randn(of_rows, columns, generator=generator) if choose.random() < 0.5 else None
    all_codes = choose.random() < 0.5
    allocation = BitAllocation(widths, "channel")
    return Grid(allocation, scale, group, zero_point, offset, kind, all_codes)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2])))
