"""The training loop: step, measure, evaluate, save. It knows no profile and prints nothing.

Evaluations and checkpoints fall on the same grid of steps however often a run was stopped, and a
batch is a pure function of the step, so a resumed run goes exactly where it would have gone.
"""

from __future__ import annotations

import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from amaqctl.engine.checkpoint import (
    CheckpointContents,
    best_checkpoint,
    good_checkpoints,
    load_optimizers,
    load_weights,
    quantizer_state,
    save_checkpoint,
)
from amaqctl.engine.engine import Engine, StepResult
from amaqctl.engine.evaluator import Evaluator
from amaqctl.engine.files import remove_folder, write_file, write_json
from amaqctl.engine.run_folder import RunFolder, utc_now
from amaqctl.engine.stop_signal import StopSignal
from amaqctl.engine.traffic import Traffic, bits_summary
from amaqctl.errors import AmaqError, Interrupted
from amaqctl.model.adapter import save_adapter
from amaqctl.tasks.batch import batch_at
from amaqctl.tasks.task import Task


@dataclass(frozen=True)
class TrainSettings:
    """What the loop needs to know, in plain values (all steps are optimizer steps)."""

    max_steps: int
    batch_size: int
    seed: int
    lr: float
    evaluate_every: int
    save_every: int
    keep_last: int


class Reporter(Protocol):
    """Who is told what happens; the command line draws it."""

    def on_start(self, first_step: int, max_steps: int) -> None:
        """Training begins at ``first_step``."""

    def on_step(self, record: dict[str, Any]) -> None:
        """One step is done; ``record`` is what went into the metrics."""

    def on_evaluation(self, record: dict[str, Any]) -> None:
        """An evaluation is done."""

    def on_save(self, step: int, folder: Path) -> None:
        """A checkpoint is complete."""


class Trainer:
    """Runs a task through an engine into a run folder.

    Args:
        engine, task, evaluator: what is trained, on what, and how it is scored.
        contents: what goes into a checkpoint.
        run: the run folder.
        settings: numbers of the loop.
        pad_token_id: for batches.
        reporter: who is told.
    """

    def __init__(
        self,
        engine: Engine,
        task: Task,
        evaluator: Evaluator,
        contents: CheckpointContents,
        run: RunFolder,
        settings: TrainSettings,
        pad_token_id: int,
        reporter: Reporter,
    ) -> None:
        self._engine = engine
        self._task = task
        self._evaluator = evaluator
        self._contents = contents
        self._run = run
        self._settings = settings
        self._pad_token_id = pad_token_id
        self._reporter = reporter
        self._evaluations: dict[int, dict[str, float]] = {}
        self._stop = StopSignal()

    def train(self, checkpoint: Path | None = None) -> dict[str, Any]:
        """Run from the first step to the last.

        Args:
            checkpoint: go on from this one instead of starting.

        Returns:
            The result that `run.json` keeps: losses, bits, bytes, seconds, memory.

        Raises:
            Interrupted: a signal came; everything was saved first.
            DivergedError, ResourceError: as named; `run.json` says how the run ended.
        """
        started = time.perf_counter()
        try:
            with self._stop:
                return self._train(checkpoint, started)
        except BaseException as error:
            self._note_failure(error)
            raise

    def _train(self, checkpoint: Path | None, started: float) -> dict[str, Any]:
        settings = self._settings
        first_step = self._restore(checkpoint) if checkpoint else 0
        self._run.update(status="running", starts=self._run.run.get("starts", 0) + 1)
        self._run.log(f"training from step {first_step} to {settings.max_steps}")
        self._reporter.on_start(first_step, settings.max_steps)
        if not first_step:
            self._evaluate(0)
        last: StepResult | None = None
        for step in range(first_step, settings.max_steps):
            last = self._step(step)
            done = step + 1
            is_last = done == settings.max_steps
            if is_last or done % settings.evaluate_every == 0:
                self._evaluate(done)
            if is_last or done % settings.save_every == 0 or self._stop.number is not None:
                self._save(done)
            if self._stop.number is not None and not is_last:
                raise Interrupted(
                    f"stopped by {signal.Signals(self._stop.number).name} after step {done}; "
                    "everything is saved",
                    signal_number=self._stop.number,
                )
        assert last is not None
        return self._finish(last, time.perf_counter() - started)

    def _restore(self, checkpoint: Path) -> int:
        """Load everything a checkpoint holds; returns the number of steps it has behind it."""
        load_weights(checkpoint, self._contents)
        state = load_optimizers(checkpoint, self._engine.stages)
        self._evaluations = {int(step): m for step, m in state["evaluations"].items()}
        self._engine.traffic = Traffic.from_plain(state["traffic"])
        self._engine.evaluation_traffic = Traffic.from_plain(state["evaluation_traffic"])
        self._run.record("resume", state["step"], checkpoint=checkpoint.name)
        return int(state["step"])

    def _step(self, step: int) -> StepResult:
        settings = self._settings
        batch = batch_at(
            self._task.train, step, settings.batch_size, settings.seed, self._pad_token_id
        )
        started = time.perf_counter()
        result = self._engine.train_step(batch, step)
        record = self._run.record(
            "train",
            step + 1,
            loss=result.loss,
            lr=settings.lr,
            grad_norm=float(np.linalg.norm(result.grad_norms)),
            tokens=sum(batch.lengths),
            seconds=round(time.perf_counter() - started, 4),
            **result.traffic.metrics(),
        )
        self._reporter.on_step(record)
        return result

    def _evaluate(self, step: int) -> None:
        metrics = self._evaluator.evaluate(step, "quantized")
        self._evaluations[step] = metrics
        record = self._run.record("eval", step, boundary="quantized", **metrics)
        self._reporter.on_evaluation(record)

    def _save(self, step: int) -> None:
        folder = self._run.path / "checkpoints"
        state = {
            "evaluations": {str(k): v for k, v in self._evaluations.items()},
            "traffic": self._engine.traffic.to_plain(),
            "evaluation_traffic": self._engine.evaluation_traffic.to_plain(),
        }
        path = save_checkpoint(folder, step, self._contents, state)
        self._save_bits(f"step-{step:06d}")
        self._run.record("save", step, path=str(path.relative_to(self._run.path)))
        self._reporter.on_save(step, path)
        self._drop_old(folder)

    def _drop_old(self, folder: Path) -> None:
        """Keep the newest few and the one with the best evaluation."""
        names = good_checkpoints(folder)
        best = best_checkpoint(names, {k: m["loss"] for k, m in self._evaluations.items()})
        for path in names[: -self._settings.keep_last]:
            if path != best:
                remove_folder(path)

    def _save_bits(self, name: str) -> None:
        widths = {}
        for stage in self._engine.stages.values():
            if stage.outgoing is None:
                continue
            for channel in (stage.outgoing.activations, stage.outgoing.gradients):
                allocation = channel.last_allocation
                if allocation is not None:
                    place = f"link{channel.address.link}.{channel.address.role}.{allocation.axis}"
                    widths[place] = allocation.widths_C.numpy()
        path = self._run.path / "bits" / f"{name}.npz"
        write_file(path, lambda temporary: _save_npz(temporary, widths))

    def _finish(self, last: StepResult, seconds: float) -> dict[str, Any]:
        models = [stage.model for _, stage in sorted(self._engine.stages.items())]
        save_adapter(models, self._run.path / "adapter", self._contents.source, self._contents.lora)
        self._save_final_quantizers()
        self._save_bits("final")
        last_step = self._settings.max_steps
        before, after = self._evaluations[0], self._evaluations[last_step]
        result = {
            "steps": last_step,
            **{f"{name}_before": value for name, value in before.items()},
            **{f"{name}_after": value for name, value in after.items()},
            **bits_summary(last.traffic, self._engine.traffic),
            "evaluation_bytes": self._engine.evaluation_traffic.total_bytes,
            "seconds": round(seconds, 2),
            "peak_memory_mib": round(peak_memory_mib()),
        }
        self._run.record("end", last_step, **result)
        self._run.log("done")
        self._run.update(status="done", ended=utc_now(), exit_code=0, result=result)
        return result

    def _save_final_quantizers(self) -> None:
        from safetensors.torch import save_file

        folder = self._run.path / "quantizer"
        state = quantizer_state(self._contents)
        write_file(folder / "quantizer.safetensors", lambda path: save_file(state, path))
        options = {
            place: {"options": quantizer.config.model_dump(mode="json")}  # type: ignore[union-attr, operator]
            for place, quantizer in self._contents.quantizers().items()
        }
        write_json(folder / "options.json", options)

    def _note_failure(self, error: BaseException) -> None:
        status = {6: "diverged", 130: "interrupted", 143: "interrupted"}
        code = error.exit_code if isinstance(error, AmaqError) else 1
        code = 130 if isinstance(error, KeyboardInterrupt) else code
        try:
            self._run.log(f"ended: {error}")
            self._run.update(status=status.get(code, "failed"), ended=utc_now(), exit_code=code)
        except AmaqError:
            pass  # the disk is the failure; the first error is the one to show


def peak_memory_mib() -> float:
    """Peak resident memory of this process in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _save_npz(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
