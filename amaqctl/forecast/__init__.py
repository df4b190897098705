"""A run before it is one: `train --dry-run` without a screen.

Beside `amaqctl.build`, part of the composition root. Exact: what each party holds, the data, and
the bytes of the first step, which is really trained (`rehearsal`). A forecast, and named so: bytes
of the whole run (`wire`), disk (`machine`) and time, a first guess from one real step. Nothing is
kept: what was built is used up and thrown away, and no run folder is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from amaqctl.build import Built
from amaqctl.engine.memory import peak_memory_mib
from amaqctl.forecast.data_order import data_order
from amaqctl.forecast.holdings import DataFacts, Piece, StageHolding, data_facts, holdings
from amaqctl.forecast.machine import DiskForecast, disk_forecast, refuse_full_disk
from amaqctl.forecast.rehearsal import rehearse
from amaqctl.forecast.wire import ChannelForecast, forecast_channels

__all__ = [
    "ChannelForecast", "DataFacts", "DiskForecast", "Forecast", "MemoryFacts", "Piece",
    "StageHolding", "TimeForecast", "forecast", "refuse_full_disk",
]  # fmt: skip


@dataclass(frozen=True)
class TimeForecast:
    """A first guess.

    Args:
        step_seconds: of one real step, not the first. evaluation_seconds: of one evaluation.
        num_steps, num_evaluations: of the run.
    """

    step_seconds: float
    evaluation_seconds: float
    num_steps: int
    num_evaluations: int

    @property
    def run_seconds(self) -> float:
        """Steps and evaluations; saving and loading come on top."""
        steps = self.num_steps * self.step_seconds
        return steps + self.num_evaluations * self.evaluation_seconds


@dataclass(frozen=True)
class MemoryFacts:
    """In bytes: this process and (or None) the GPU at their peak so far, and the machine's all."""

    peak_bytes: int
    machine_bytes: int
    device_peak_bytes: int | None


@dataclass(frozen=True)
class Forecast:
    """Everything a dry run tells.

    ``num_counted_steps``: of the run's first steps, whose batches were built; what the data are
    like after them is extrapolated.
    """

    stages: tuple[StageHolding, ...]
    data: DataFacts
    channels: tuple[ChannelForecast, ...]
    num_counted_steps: int
    loss_before: float
    time: TimeForecast
    memory: MemoryFacts
    disk: DiskForecast

    def bits(self, role: str, *, at_end: bool) -> float:
        """Real bits a value of one direction, all links: counted in step 0, or forecast."""
        channels = [channel for channel in self.channels if channel.role == role]
        num_values = sum(channel.first_step_values for channel in channels)
        weighted = sum(
            channel.first_step_values
            * (channel.last_step_bits if at_end else channel.first_step_bits)
            for channel in channels
        )
        return weighted / num_values


def forecast(built: Built, out: Path | None) -> Forecast:
    """What the run of ``built`` will do. ``built`` is used up by it.

    Args:
        out: the run folder to be, or None for one under ``output.root``.

    Raises:
        InputError, DivergedError, QuantizationError, ResourceError: as training would.
    """
    profile = built.loaded.profile
    stages, data = holdings(built), data_facts(built)
    order = data_order(built)
    rehearsal = rehearse(built)
    num_seen = sum(first < len(rehearsal.steps) for first in order.first_steps.values())
    disk = disk_forecast(built, rehearsal, order.num_samples, num_seen, out)
    memory = MemoryFacts(
        round(peak_memory_mib() * 2**20),
        psutil.virtual_memory().total,
        torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    )
    channels = forecast_channels(built, rehearsal, order)
    max_steps = profile.train.max_steps
    return Forecast(
        stages=tuple(stages),
        data=data,
        channels=tuple(channels),
        num_counted_steps=order.num_counted,
        loss_before=rehearsal.loss,
        time=TimeForecast(
            step_seconds=rehearsal.seconds[-1],
            evaluation_seconds=rehearsal.evaluation_seconds,
            num_steps=max_steps,
            num_evaluations=1 + -(-max_steps // profile.eval.every),
        ),
        memory=memory,
        disk=disk,
    )
