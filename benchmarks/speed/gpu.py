"""How fast the GPU encodes and decodes, beside a copy of the same values in the same run.

    python benchmarks/speed/gpu.py [--batch 4] [--length 2048] [--width 4096] [--rounds 20]

Prints, for bfloat16 values at four bits a value and at three to eight that average four: the
median time in microseconds by CUDA events, its ratio to the copy (a device to device memcpy of
the values, which moves 4 bytes a value where the codec moves 2.5), and the bytes moved a second.
Needs a CUDA device and triton.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 5


def microseconds(work: Callable[[], object], rounds: int) -> float:
    """Median time of one call on the device, with the values no longer in its cache."""
    # More than the L2 cache, and so long that the work is launched before the device is done.
    sweep = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    times = []
    for turn in range(WARM_UP + rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        sweep.zero_()
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        if turn >= WARM_UP:
            times.append(start.elapsed_time(end) * 1000)
    return statistics.median(times)


def allocations(num_columns: int) -> dict[str, Tensor]:
    """Widths by name: four bits for all, and 3 to 8 that average four."""
    # Of thirty-two columns: 20 x 3, 4 x 4, 3 x 5, 2 x 6, 1 x 7, 2 x 8 bits, so 126; and two
    # bits more for the first of them. Shuffled, as a learned allocation is in no order.
    pattern = torch.tensor([5] + [3] * 19 + [4] * 4 + [5] * 3 + [6] * 2 + [7] + [8] * 2)
    repeated = pattern.repeat(-(-num_columns // 32))[:num_columns]
    order = torch.randperm(num_columns, generator=torch.Generator().manual_seed(0))
    uniform = torch.full((num_columns,), 4, dtype=torch.uint8)
    return {"4 bits": uniform, "3 to 8 bits": repeated[order].to(torch.uint8)}


def main() -> None:
    """Time, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device here")
    from amaqctl.bits import BitAllocation, Grid, step_size, triton_codec, triton_stats

    num_rows = options.batch * options.length
    values_RC = torch.randn((num_rows, options.width), device="cuda").bfloat16()
    copied_RC = torch.empty_like(values_RC)
    copy = microseconds(lambda: copied_RC.copy_(values_RC), options.rounds)
    rows: list[tuple[str, float, int]] = [("memcpy", copy, 2 * values_RC.nbytes)]
    for name, widths_C in allocations(options.width).items():
        peak_C = values_RC.float().abs().amax(dim=0, keepdim=True)
        allocation = BitAllocation(widths_C, "channel")
        grid = Grid(allocation, step_size(peak_C, allocation))
        data = triton_codec.encode(values_RC, grid)
        moved = values_RC.nbytes + data.nbytes
        encode = microseconds(lambda g=grid: triton_codec.encode(values_RC, g), options.rounds)
        decode = microseconds(
            lambda g=grid, d=data: triton_codec.decode(d, num_rows, g, torch.bfloat16),
            options.rounds,
        )
        rows += [(f"encode, {name}", encode, moved), (f"decode, {name}", decode, moved)]
    peak = microseconds(lambda: triton_stats.row_peak(values_RC), options.rounds)
    bounds = microseconds(lambda: triton_stats.column_bounds(values_RC, None), options.rounds)
    rows += [("row peaks", peak, values_RC.nbytes), ("column bounds", bounds, values_RC.nbytes)]
    print(f"{torch.cuda.get_device_name()}, {num_rows} x {options.width} bfloat16, torch", end=" ")
    print(f"{torch.__version__}; medians of {options.rounds}")
    print(f"{'':22}{'µs':>8}{'x memcpy':>10}{'GB/s':>8}")
    for name, time, moved in rows:
        print(f"{name:22}{time:8.1f}{time / copy:10.2f}{moved / time / 1000:8.0f}")


if __name__ == "__main__":
    main()
