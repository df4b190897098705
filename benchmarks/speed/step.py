"""What the cut costs: whole training steps, split on loopback and unsplit, on the same batches.

    python benchmarks/speed/step.py [--quick] [--steps 8] [--profile quickstart] [--set KEY=VALUE]…

SmolLM2-135M with LoRA, 4 x 128 tokens, in bfloat16 and in float32. The kinds of step take turns in
one process, on as many threads as torch takes; ratios are of one turn, medians over the turns. The
codec's share is wall time inside `quantize`, `dequantize` and `surrogate` of a channel's ends, in
making and reading messages, and in `amaq`'s look at the gradients. Peak memory is of a process that
trains in one way only.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from step_kinds import KINDS, batches, loaded, step_of
from timing import spread

from amaqctl.build import Built
from amaqctl.engine.link import Channel
from amaqctl.engine.memory import peak_memory_mib
from amaqctl.wire import Message

DTYPES = ("float32", "bfloat16")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
STEPS = 8
_WARM_UP = 2
_STEPS_FOR_MEMORY = 4

Spent = defaultdict[str, float]


class CodecWatch:
    """Adds up the wall time inside the codec, by what was called."""

    def __init__(self) -> None:
        self.spent: Spent = defaultdict(float)
        for name in ("to_bytes_and_sizes", "from_bytes"):
            inner = getattr(Message, name)
            timed = self._timed(name, inner.__func__ if name == "from_bytes" else inner)
            setattr(Message, name, classmethod(timed) if name == "from_bytes" else timed)

    def watch(self, built: Built) -> None:
        """Wrap the ends of every channel."""
        for stage in built.engine.stages.values():
            if stage.outgoing is None:
                continue
            for channel in (stage.outgoing.activations, stage.outgoing.gradients):
                assert isinstance(channel, Channel)
                for end in channel.quantizers.ends.values():
                    for verb in ("quantize", "dequantize", "surrogate"):
                        setattr(end, verb, self._timed(verb, getattr(end, verb)))
                    harm = getattr(end.quantizer, "harm", None)
                    if harm is not None:
                        timed = self._timed("observe_gradient", harm.observe_gradient)
                        object.__setattr__(harm, "observe_gradient", timed)

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.spent[name] += time.perf_counter() - started

        return call


def side_by_side(profile: str, overrides: list[str], num_steps: int) -> dict[str, Any]:
    """Seconds of a step of each kind, ratios to the unsplit one, and the codec's share."""
    watch = CodecWatch()
    steps = {}
    for kind in KINDS:
        steps[kind], built = step_of(kind, loaded(profile, overrides, kind))
        if built is not None:
            watch.watch(built)
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    codec: dict[str, list[Spent]] = {kind: [] for kind in KINDS}
    for number, batch in enumerate(batches(loaded(profile, overrides), num_steps + _WARM_UP)):
        first = number % len(KINDS)  # who comes after whom is worth some per cent
        for kind in [*KINDS, *KINDS][first : first + len(KINDS)]:
            watch.spent = defaultdict(float)
            started = time.perf_counter()
            steps[kind](batch, number)
            if number >= _WARM_UP:
                taken[kind].append(time.perf_counter() - started)
                codec[kind].append(watch.spent)
    return {kind: _row(taken[kind], taken["unsplit"], codec[kind]) for kind in KINDS}


def _row(taken: Sequence[float], unsplit: Sequence[float], codec: Sequence[Spent]) -> Any:
    row: dict[str, Any] = {
        "seconds": spread(taken),
        "to_unsplit": spread([a / b for a, b in zip(taken, unsplit, strict=True)]),
    }
    totals = [sum(each.values()) for each in codec]
    if any(totals):
        # The mean: of amaq's steps every eighth is longer.
        row["codec_ms"] = round(1e3 * statistics.fmean(totals), 3)
        row["codec_share"] = round(sum(totals) / sum(taken), 5)
        names = sorted({name for each in codec for name in each})
        row["codec_ms_by_call"] = {
            name: round(1e3 * statistics.fmean(each[name] for each in codec), 3) for name in names
        }
    return row


def in_own_process(arguments: argparse.Namespace, dtype: str, kind: str, steps: int) -> Any:
    """This file again, for one dtype and kind."""
    command = [sys.executable, __file__, "--dtype", dtype, "--kind", kind, "--steps", str(steps)]
    command += ["--profile", arguments.profile]
    for override in arguments.overrides:
        command += ["--set", override]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def skipped() -> dict[str, str]:
    """Dtypes that say nothing here, and why: in software a step in bfloat16 takes minutes."""
    info = Path("/proc/cpuinfo")
    if not info.exists() or _BFLOAT16_FLAGS & set(info.read_text().split()):
        return {}
    return {"bfloat16": "this processor has no arithmetic in bfloat16"}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The part of the record: a row a dtype and kind."""
    rows, left_out = [], skipped()
    for dtype in DTYPES[:1] if arguments.quick else DTYPES:
        if dtype in left_out:
            continue
        found = in_own_process(arguments, dtype, "all", arguments.steps)
        for kind in KINDS:
            peak = in_own_process(arguments, dtype, kind, _STEPS_FOR_MEMORY)
            rows.append({"dtype": dtype, "kind": kind, **found[kind], "peak_mib": round(peak)})
    return {"steps": arguments.steps, "rows": rows, "skipped": left_out}


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two steps, one dtype")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--profile", default="quickstart")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--dtype", choices=DTYPES, help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=["all", *KINDS], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps = 2
    if arguments.kind is None:
        print(json.dumps(measure(arguments)))
        return
    overrides = [*arguments.overrides, f"model.dtype={arguments.dtype}"]
    if arguments.kind == "all":
        print(json.dumps(side_by_side(arguments.profile, overrides, arguments.steps)))
        return
    profile = loaded(arguments.profile, overrides, arguments.kind)
    step, _ = step_of(arguments.kind, profile)
    for number, batch in enumerate(batches(profile, arguments.steps)):
        step(batch, number)
    gc.collect()
    print(json.dumps(peak_memory_mib()))


if __name__ == "__main__":
    main()
