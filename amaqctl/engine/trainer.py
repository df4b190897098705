"""The training loop: step, measure, evaluate, save. It knows no profile and prints nothing.

Evaluations and checkpoints fall on the same grid of steps however often a run was stopped, and a
batch is a pure function of the step, so a resumed run goes exactly where it would have gone. What
belongs to a step is on disk before its checkpoint is: a checkpoint in place means all is there.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Protocol

from amaqctl.engine.advice import way_on
from amaqctl.engine.averaging import average, join
from amaqctl.engine.checkpoint import (
    CheckpointContents,
    best_checkpoint,
    load_training_state,
    load_weights,
    save_checkpoint,
)
from amaqctl.engine.checkpoint_folder import checkpoint_name, good_checkpoints, step_of
from amaqctl.engine.engine import Engine
from amaqctl.engine.evaluator import Evaluator
from amaqctl.engine.memory import peak_memory_mib
from amaqctl.engine.outputs import drop_later, save_bits, save_outcome
from amaqctl.engine.run_documents import TrainerDocument
from amaqctl.engine.run_folder import RunFolder, utc_now
from amaqctl.engine.stop_signal import StopSignal
from amaqctl.engine.traffic import Traffic, bits_summary
from amaqctl.engine.train_settings import TrainSettings
from amaqctl.errors import AmaqError, InputError, Interrupted, ResumeError
from amaqctl.storage import remove_folder
from amaqctl.tasks.batch import batch_at
from amaqctl.tasks.task import Task


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
        self._last_traffic = Traffic()
        self._stop = StopSignal()

    def train(self, checkpoint: Path | None = None, *, joins: bool = False) -> dict[str, Any]:
        """Run from the first step to the last.

        Args:
            checkpoint: go on from this one instead of starting.
            joins: enter where the server's other clients are instead of starting.

        Returns:
            The result that `run.json` keeps: losses, bits, bytes, seconds, memory.

        Raises:
            Interrupted: a signal came, and everything was saved; or a second one came.
            ResumeError: another process is writing into the run folder, or what it holds cannot be
                gone on with; nothing was changed.
            DivergedError, ResourceError: as named; `run.json` says how the run ended.
        """
        started = time.perf_counter()
        self._run.lock()
        try:
            first_step = join(self._engine) if joins else self._restore(checkpoint)
        except BaseException:  # refused: the run is as it was
            self._run.unlock()
            raise
        try:
            with self._stop:
                return self._train(checkpoint, first_step, started)
        except KeyboardInterrupt as error:
            number = self._stop.number or signal.SIGINT
            message = "stopped at once; what was saved before is whole"
            stopped = Interrupted(message, signal_number=number, hint=way_on(self._run))
            self._note_failure(stopped)
            raise stopped from error
        except BaseException as error:
            self._note_failure(error)
            raise
        finally:
            self._run.unlock()

    def _train(self, checkpoint: Path | None, first_step: int, started: float) -> dict[str, Any]:
        settings = self._settings
        self._begin(checkpoint, first_step)
        self._reporter.on_start(first_step, settings.max_steps)
        if checkpoint is None:
            self._evaluate(first_step)
        for step in range(first_step, settings.max_steps):
            if self._engine.others.takes_turn(step):
                self._step(step)
            done = step + 1
            is_last = done == settings.max_steps
            if self._engine.others.has_other_clients and (
                is_last or done % settings.average_every == 0
            ):
                self._average(done)
            if is_last or done % settings.evaluate_every == 0:
                self._evaluate(done)
            if is_last or done % settings.save_every == 0 or self._stop.number is not None:
                self._save(done)
            if self._stop.number is not None and not is_last:
                raise Interrupted(
                    f"stopped by {signal.Signals(self._stop.number).name} after step {done}; "
                    "everything is saved",
                    signal_number=self._stop.number,
                    hint=way_on(self._run),
                )
        if settings.max_steps not in self._evaluations:  # stopped there, and now told to end there
            self._evaluate(settings.max_steps)
        return self._finish(time.perf_counter() - started)

    def _begin(self, checkpoint: Path | None, first_step: int) -> None:
        """Bring the folder to where the run goes on."""
        self._run.mend()
        starts = self._run.run.get("starts", 0)
        for name in ("ended", "exit_code"):
            self._run.run.pop(name, None)
        if checkpoint or starts:
            drop_later(self._run.path, first_step)
            saved = {r["step"] for r in self._run.metrics() if r["kind"] == "save"}
            source = checkpoint.name if checkpoint else None
            self._run.record("resume", first_step, checkpoint=source)
            if checkpoint and first_step not in saved:  # killed between the save and its record
                self._record_save(first_step)
        last_step = self._settings.max_steps
        self._run.note_max_steps(first_step, last_step)
        self._run.update(status="running", pid=os.getpid(), starts=starts + 1)
        self._run.log(f"training from step {first_step} to {last_step}")

    def _restore(self, checkpoint: Path | None) -> int:
        """Load everything a checkpoint holds, and see that the metrics can be read.

        Returns:
            Steps that are done.
        """
        try:
            self._run.metrics()
            if checkpoint is None:
                self._engine.others.restore(0)
                return 0
            load_weights(checkpoint, self._contents)
            state = load_training_state(checkpoint, self._engine.stages, TrainerDocument)
        except InputError as error:
            raise ResumeError(error.message, where=error.where, hint=error.hint) from error
        self._engine.others.restore(state.step)
        self._evaluations = {int(step): m for step, m in state.evaluations.items()}
        self._engine.traffic, self._engine.evaluation_traffic, self._last_traffic = (
            Traffic.from_plain({place: dict(sums) for place, sums in sums_by_place.items()})
            for sums_by_place in (state.traffic, state.evaluation_traffic, state.last_traffic)
        )
        return state.step

    def _step(self, step: int) -> None:
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
            lr=settings.learning_rate.at(step),
            grad_norm=result.grad_norm,
            tokens=sum(batch.lengths),
            seconds=round(time.perf_counter() - started, 4),
            **result.traffic.metrics(),
        )
        self._last_traffic = result.traffic
        self._reporter.on_step(record)

    def _average(self, step: int) -> None:
        num_bytes = average(self._engine, step)
        self._run.record("average", step, bytes=num_bytes)

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
            "last_traffic": self._last_traffic.to_plain(),
            "identity": self._run.run.get("identity"),
        }
        # The others first: a step that is saved here is saved everywhere.
        self._engine.others.save(step)
        save_bits(self._run.path, step, self._engine.stages)
        self._run.sync_metrics()
        path = save_checkpoint(folder, step, self._contents, state)
        self._record_save(step)
        self._reporter.on_save(step, path)
        self._drop_old(folder)

    def _record_save(self, step: int) -> None:
        self._run.record("save", step, path=f"checkpoints/{checkpoint_name(step)}")

    def _drop_old(self, folder: Path) -> None:
        """Keep the newest few and the one with the best evaluation."""
        names = good_checkpoints(folder)
        best = best_checkpoint(names, {k: m["loss"] for k, m in self._evaluations.items()})
        dropped = [path for path in names[: -self._settings.keep_last] if path != best]
        for path in dropped:
            remove_folder(path)
        self._engine.others.keep([step_of(path) for path in names if path not in dropped])

    def _finish(self, seconds: float) -> dict[str, Any]:
        last_step = self._settings.max_steps
        self._drop_old(self._run.path / "checkpoints")  # a killed process may not have come to it
        self._engine.others.end(last_step)
        save_outcome(self._run.path, last_step, self._contents)
        # A client that joined later has none of the start.
        before = self._evaluations[min(self._evaluations)]
        after = self._evaluations[last_step]
        result = {
            "steps": last_step,
            **{f"{name}_before": value for name, value in before.items()},
            **{f"{name}_after": value for name, value in after.items()},
            **bits_summary(self._last_traffic, self._engine.traffic),
            "evaluation_bytes": self._engine.evaluation_traffic.total_bytes,
            **self._average_bytes(),
            "seconds": round(seconds, 2),
            "peak_memory_mib": round(peak_memory_mib()),
        }
        self._run.record("end", last_step, **result)
        self._run.log("done")
        self._run.update(status="done", ended=utc_now(), exit_code=0, result=result)
        return result

    def _average_bytes(self) -> dict[str, int]:
        """What means of several clients' weights have cost; nothing where there is one client."""
        records = [r for r in self._run.metrics() if r["kind"] == "average"]
        return {"average_bytes": sum(r["bytes"] for r in records)} if records else {}

    def _note_failure(self, error: BaseException) -> None:
        status = {6: "diverged", 129: "interrupted", 130: "interrupted", 143: "interrupted"}
        code = error.exit_code if isinstance(error, AmaqError) else 1
        code = 130 if isinstance(error, KeyboardInterrupt) else code
        try:
            self._run.log(f"ended: {error}")
            self._run.update(status=status.get(code, "failed"), ended=utc_now(), exit_code=code)
        except AmaqError:
            pass  # the disk is the failure; the first error is the one to show
