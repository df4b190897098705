"""What is shown while training: a panel on a terminal, a greppable line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.panel import Panel

from amaqctl.cli.console.echo import no_caret
from amaqctl.cli.console.render import progress_panel, sparkline
from amaqctl.cli.console.streams import say
from amaqctl.units import duration, mib

_LINE_SECONDS = 30.0
_LINE_SHARE = 0.05
_SPARK_WIDTH = 20


class TrainingProgress:
    """A reporter for the trainer; a context manager around the run.

    Args:
        title: the run's name.
        quiet: show nothing.
    """

    def __init__(self, title: str, quiet: bool) -> None:
        self._title = title
        self._quiet = quiet
        console = Console(stderr=True)
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        # A dumb terminal cannot go back over its lines.
        self._uses_panel = console.is_terminal and not console.is_dumb_terminal and not quiet
        self._around = contextlib.ExitStack()
        self._records: list[dict[str, Any]] = []
        self._evaluations: list[tuple[int, float]] = []
        self._total = 0
        self._first_step = 0
        self._started = 0.0
        self._last_line = (0.0, 0)

    def __enter__(self) -> TrainingProgress:
        if self._uses_panel:
            self._around.enter_context(no_caret())
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._uses_panel:
            with contextlib.suppress(OSError):  # the terminal may have gone away
                self._live.stop()
        self._around.close()

    def on_start(self, first_step: int, max_steps: int) -> None:
        """Start the clock; time left counts this session's steps only."""
        self._first_step, self._total = first_step, max_steps
        self._started = time.monotonic()
        self._last_line = (self._started, first_step)

    def on_step(self, record: dict[str, Any]) -> None:
        """Draw the panel again, or print a line when one is due."""
        self._records.append(record)
        if self._uses_panel:
            self._live.update(self._panel())
            return
        now, step = time.monotonic(), record["step"]
        last_time, last_step = self._last_line
        is_due = now - last_time >= _LINE_SECONDS and step - last_step >= _LINE_SHARE * self._total
        if is_due or step == self._total:
            self._last_line = (now, step)
            self._print(
                f"step={step}/{self._total} loss={record['loss']:.3f} "
                f"bits_act={_bits(record, 'activation'):.2f} "
                f"wire_mib={record['wire/total_bytes'] / 2**20:.3f} "
                f"eta={self._time_left()}"
            )

    def on_evaluation(self, record: dict[str, Any]) -> None:
        """Note the evaluation."""
        self._evaluations.append((record["step"], record["loss"]))
        scores = "".join(
            f" {name}={record[name]:.3f}" for name in ("accuracy", "exact_match") if name in record
        )
        self._print(f"eval step={record['step']} loss={record['loss']:.4f}{scores}")

    def on_save(self, step: int, folder: Path) -> None:
        """Note the checkpoint."""
        self._print(f"saved step={step} path={folder}")

    def _print(self, line: str) -> None:
        if not self._quiet and not self._uses_panel:
            say(f"{time.strftime('%H:%M:%S')} {line}")

    def _panel(self) -> Panel:
        record = self._records[-1]
        losses = [r["loss"] for r in self._records]
        step, evaluation = self._evaluations[-1] if self._evaluations else (0, float("nan"))
        speed = (record["step"] - self._first_step) / max(time.monotonic() - self._started, 1e-9)
        raw = record["wire/total_bytes"]
        rows = [
            (
                "loss",
                sparkline(losses, _SPARK_WIDTH),
                f"{losses[-1]:.3f}  eval {evaluation:.3f} @ {step}",
            ),
            ("bits act", *self._bits_row("activation")),
            ("bits grad", *self._bits_row("gradient")),
            (
                "wire/step",
                sparkline([r["wire/total_bytes"] for r in self._records], _SPARK_WIDTH),
                mib(raw),
            ),
            ("speed", "", f"{speed:.2f} steps/s  {self._time_left()} left"),
        ]
        return progress_panel(f"amaqctl train  {self._title}", record["step"], self._total, rows)

    def _bits_row(self, role: str) -> tuple[str, str]:
        series = [_bits(r, role) for r in self._records]
        record = self._records[-1]
        lows = [v for k, v in record.items() if k.startswith("bits/") and k.endswith(f"{role}_min")]
        highs = [
            v for k, v in record.items() if k.startswith("bits/") and k.endswith(f"{role}_max")
        ]
        span = f"  widths {min(lows)}-{max(highs)}" if lows else ""
        return sparkline(series, _SPARK_WIDTH), f"{series[-1]:.2f} a value on the wire{span}"

    def _time_left(self) -> str:
        done = self._records[-1]["step"] - self._first_step
        elapsed = time.monotonic() - self._started
        return duration(elapsed / done * (self._total - self._records[-1]["step"]))


def _bits(record: dict[str, Any], role: str) -> float:
    """Real bits a value of one direction, all links weighted by their bytes."""
    num_bytes = values = 0.0
    for key, size in record.items():
        if key.startswith("wire/") and key.endswith(f"{role}_bytes"):
            bits = record[f"{key.removesuffix('_bytes')}_bits_a_value"]
            num_bytes += size
            values += 8 * size / bits if bits else 0.0
    return 8 * num_bytes / values if values else 0.0
