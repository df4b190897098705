"""Cases in turns, each beside a copy of its own tensor, on two clocks.

A round visits every case. Just before a case the same float32 tensor is copied a few times, so that
what the machine does besides falls on both; the ratio is taken within the round. Over rounds the
median is reported, with the smallest and the largest.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from inputs import Shape
from torch import Tensor

_COPIES = 3


@dataclass(frozen=True)
class Seconds:
    """What one call took: this thread's processor time, and wall time."""

    cpu: float
    wall: float


Call = dict[str, Seconds]
"""One call of a case, by verb: ``encode``, ``decode``, ``observe``."""


class Case(Protocol):
    """Something to be timed."""

    labels: Mapping[str, str]
    shape: Shape
    device: str
    figure: str
    """``median`` of a round's calls, or ``mean`` where calls are not alike by design."""

    def calls(self) -> list[Call]:
        """One round."""


@dataclass
class Clock:
    """Collects the verbs of one call."""

    device: str = "cpu"
    call: Call = field(default_factory=dict)

    @contextmanager
    def of(self, verb: str) -> Iterator[None]:
        """Time what is inside."""
        self._wait()
        cpu, wall = time.thread_time(), time.perf_counter()
        yield
        self._wait()
        self.call[verb] = Seconds(time.thread_time() - cpu, time.perf_counter() - wall)

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


@dataclass
class Timed:
    """A case's figures, one a round, in seconds: by verb, then by clock."""

    case: Case
    rounds: list[dict[str, dict[str, float]]]

    def ratios(self, verb: str, clock: str) -> list[float]:
        """Time of a copy in parts of this verb's time, of each round."""
        return [each["memcpy"][clock] / each[verb][clock] for each in self.rounds]


def round_robin(cases: Sequence[Case], num_rounds: int, report: bool = True) -> list[Timed]:
    """Every case in every round; the round before the first is not counted."""
    timed = [Timed(case, []) for case in cases]
    gc.disable()
    for number in range(num_rounds + 1):
        for each in timed:
            copies = _copies(each.case.shape, each.case.device)
            figures = _of_round(each.case.calls(), each.case.figure)
            figures["memcpy"] = _of_round(copies, "median")["copy"]
            if number:
                each.rounds.append(figures)
        gc.collect()
        if report:
            print(f"round {number} of {num_rounds}", file=sys.stderr, flush=True)
    gc.enable()
    return timed


def row_of(timed: Timed) -> dict[str, Any]:
    """The record of a case: for each verb ratio and milliseconds as [median, lowest, highest]."""
    row: dict[str, Any] = {**timed.case.labels, "figure": timed.case.figure}
    row["memcpy"] = {"cpu_ms": spread([1e3 * r["memcpy"]["cpu"] for r in timed.rounds])}
    for verb in timed.rounds[0]:
        if verb == "memcpy":
            continue
        row[verb] = {
            "ratio": spread(timed.ratios(verb, "cpu")),
            "ratio_wall": spread(timed.ratios(verb, "wall")),
            "cpu_ms": spread([1e3 * r[verb]["cpu"] for r in timed.rounds]),
            "wall_ms": spread([1e3 * r[verb]["wall"] for r in timed.rounds]),
            "median_call_cpu_ms": spread([1e3 * r[verb]["median_cpu"] for r in timed.rounds]),
        }
    return row


def spread(values: Sequence[float]) -> list[float]:
    """Median, lowest and highest, to four digits."""
    return [float(f"{v:.4g}") for v in (statistics.median(values), min(values), max(values))]


def printed(measure: Callable[[bool], object]) -> None:
    """The main of a part: one line of JSON on stdout, in one thread."""
    torch.set_num_threads(1)
    result = measure("--quick" in sys.argv[1:])
    print(json.dumps(result), flush=True)


def _of_round(calls: Sequence[Call], figure: str) -> dict[str, dict[str, float]]:
    of = statistics.fmean if figure == "mean" else statistics.median
    return {
        verb: {
            "cpu": of([call[verb].cpu for call in calls]),
            "wall": of([call[verb].wall for call in calls]),
            "median_cpu": statistics.median(call[verb].cpu for call in calls),
        }
        for verb in calls[0]
    }


_buffers: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}


def _copies(shape: Shape, device: str) -> list[Call]:
    """A float32 tensor of the shape copied a few times."""
    key = (shape.name, device)
    if key not in _buffers:
        source = torch.randn(shape.sizes, device=device)
        _buffers[key] = (source, torch.zeros_like(source))
    source, target = _buffers[key]
    calls = []
    for _ in range(_COPIES):
        clock = Clock(device)
        with clock.of("copy"):
            target.copy_(source)
        calls.append(clock.call)
    return calls
