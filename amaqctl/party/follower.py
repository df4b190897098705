"""A follower: it does what the leader says, with the stages that it holds.

It never sees the data: tokens stay with the leader, and labels come only where the last stage is.
An order out of turn, or one that cannot be carried out, ends the session on both sides; what was
saved before stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from amaqctl.engine.averaging import follow_average
from amaqctl.engine.checkpoint import (
    CheckpointContents,
    load_training_state,
    load_weights,
    save_checkpoint,
)
from amaqctl.engine.checkpoint_folder import (
    all_checkpoints,
    checkpoint_name,
    good_checkpoints,
    step_of,
)
from amaqctl.engine.engine import Engine
from amaqctl.engine.fellows import Weights
from amaqctl.engine.look import Look
from amaqctl.engine.outputs import drop_later, save_bits, save_outcome
from amaqctl.engine.run_documents import TrainingDocument
from amaqctl.engine.run_folder import RunFolder, utc_now
from amaqctl.engine.shared_state import take_over
from amaqctl.engine.traffic import Traffic
from amaqctl.errors import ResumeError, TransportError, WireError
from amaqctl.party.follow_settings import FollowSettings
from amaqctl.party.notes import (
    Average,
    Done,
    End,
    Forget,
    Join,
    Keep,
    Looked,
    LookNote,
    Mean,
    Note,
    Pass,
    Restore,
    Save,
    Stepped,
    Stop,
    Train,
    Update,
    check_labels,
    note_from_bytes,
    note_to_bytes,
)
from amaqctl.party.states import PartyState, after
from amaqctl.party.weights import weights_from_bytes, weights_to_bytes
from amaqctl.storage import remove_folder
from amaqctl.transports.transport import ORDER, REPLY, Address, Transport


class Reporter(Protocol):
    """Who is told what happens; the command line draws it."""

    def on_start(self, first_step: int, max_steps: int) -> None:
        """Training begins at ``first_step``."""

    def on_step(self, record: dict[str, Any]) -> None:
        """One step is done; ``record`` is what went into the metrics."""


class Follower:
    """Obeys one leader until the run ends.

    Args:
        engine, contents: the stages held here, and what of them goes into a checkpoint.
        run: this party's own run folder, locked.
        transport: on which orders and tensors come.
    """

    def __init__(
        self,
        engine: Engine,
        contents: CheckpointContents,
        run: RunFolder,
        transport: Transport,
        settings: FollowSettings,
        reporter: Reporter,
    ) -> None:
        self.state = PartyState.agreed
        self._engine, self._contents, self._run = engine, contents, run
        self._transport, self._settings, self._reporter = transport, settings, reporter
        self.result: dict[str, Any] = {}
        self._step = 0
        self._started = 0.0
        self._sent = Traffic()  # in the step that waits for its update
        self._then = b""  # the weights of a mean
        self._obey: dict[type[Note], Callable[[Any, Tensor | None], Note | None]] = {
            Restore: self._restore,
            Train: self._train,
            Update: self._update,
            LookNote: self._look,
            Forget: self._forget,
            Pass: self._pass,
            Average: self._average,
            Join: self._join,
            Save: self._save,
            Keep: self._keep,
            End: self._end,
            Stop: self._stop,
        }

    def follow(self) -> dict[str, Any]:
        """Obey until the last order.

        Returns:
            Steps of the run, and what this party sent in training; `run.json` keeps it.

        Raises:
            TransportError: the leader stopped before the end, failed, or is lost.
            WireError: it said something out of turn, or that is not legal.
            AmaqError: an order could not be carried out.
        """
        while self.state is not PartyState.ended:
            data = self._transport.receive(Address(self._settings.place, ORDER))
            note, labels_BT = note_from_bytes(data, self._settings.max_note_bytes)
            self.state = after(self.state, note)
            reply = self._obey[type(note)](note, labels_BT)
            if reply is not None:
                self._transport.send(Address(self._settings.place, REPLY), note_to_bytes(reply))
            if isinstance(reply, Mean):
                self._transport.send(Address(self._settings.place, REPLY), self._then)
        return self.result

    def _restore(self, note: Restore, _: Tensor | None) -> Done:
        due = self._settings.due_step
        if due is not None and note.step != due:
            raise ResumeError(
                f"the leader goes on from step {note.step}, and all clients together from {due}",
                where=str(self._run.path),
                hint="give the run folder to --resume, and no older checkpoint",
            )
        if note.step:
            checkpoint = self._run.path / "checkpoints" / checkpoint_name(note.step)
            if checkpoint not in good_checkpoints(checkpoint.parent):
                raise ResumeError(
                    f"the leader goes on from step {note.step}, which is not saved here",
                    where=str(self._run.path),
                )
            load_weights(checkpoint, self._contents)
            state = load_training_state(checkpoint, self._engine.stages, TrainingDocument)
            self._engine.traffic, self._engine.evaluation_traffic = (
                Traffic.from_plain({place: dict(sums) for place, sums in ledger.items()})
                for ledger in (state.traffic, state.evaluation_traffic)
            )
        self._begin(note.step)
        return Done(step=note.step)

    def _join(self, note: Join, _: Tensor | None) -> Mean:
        step, mean, state = self._engine.fellows.join()
        take_over(self._engine.stages, state)
        self._begin(step)
        return self._mean(step, mean)

    def _begin(self, step: int) -> None:
        self._run.mend()
        drop_later(self._run.path, step)
        if self._run.metrics():
            self._run.record("resume", step, checkpoint=None)
        self._step = step
        self._run.note_max_steps(step, self._settings.max_steps)
        self._run.update(status="running")
        self._reporter.on_start(step, self._settings.max_steps)

    def _train(self, note: Train, labels_BT: Tensor | None) -> Stepped:
        self._started = time.perf_counter()
        if note.step != self._step:
            raise WireError(f"step {note.step} where {self._step} is due")
        self._hold_labels(labels_BT)
        boundary = "clean" if note.is_clean else "quantized"
        with self._engine.boundary(boundary):  # type: ignore[arg-type]
            part = self._engine.follow_step(note.step, note.num_loss_tokens, labels_BT)
        self._sent = part.traffic
        return Stepped(loss=part.loss, norms=part.norms, traffic=part.traffic.to_plain())

    def _update(self, note: Update, _: Tensor | None) -> None:
        self._engine.update(note.norm, self._step)
        self._step += 1
        record = self._run.record(
            "train",
            self._step,
            grad_norm=note.norm,
            seconds=round(time.perf_counter() - self._started, 4),
            **self._sent.metrics(),
        )
        self._reporter.on_step(record)

    def _look(self, note: LookNote, labels_BT: Tensor | None) -> Looked:
        self._hold_labels(labels_BT, is_due=note.wants_loss)
        look = Look(
            note.step,
            note.generation,
            note.wants_loss,
            note.choices,
            note.choice_positions,
            note.wants_next,
        )
        boundary = "clean" if note.is_clean else "quantized"
        with self._engine.boundary(boundary):  # type: ignore[arg-type]
            part = self._engine.follow_look(look, labels_BT)
        traffic = part.traffic.to_plain()
        if part.seen is None:
            return Looked(traffic=traffic)
        seen = part.seen
        return Looked(
            loss=seen.loss, choices=seen.choices, next_tokens=seen.next_tokens, traffic=traffic
        )

    def _hold_labels(self, labels_BT: Tensor | None, *, is_due: bool = True) -> None:
        holds_last = self._engine.num_stages - 1 in self._engine.stages
        if (labels_BT is not None) != (holds_last and is_due):
            raise WireError("labels where none are due" if not holds_last else "labels are missing")
        if labels_BT is not None:
            check_labels(labels_BT, self._settings.vocab_size)

    def _forget(self, note: Forget, _: Tensor | None) -> None:
        self._engine.forget(note.generation)

    def _pass(self, note: Pass, _: Tensor | None) -> None:
        if note.step != self._step:
            raise WireError(f"'pass' of step {note.step} where {self._step} is due")
        self._step += 1

    def _average(self, note: Average, _: Tensor | None) -> Mean:
        data = self._transport.receive(Address(self._settings.place, ORDER))
        weights = weights_from_bytes(data, self._settings.client_shapes)
        if note.step != self._step:
            raise WireError(f"'average' of step {note.step} after {self._step} steps")
        return self._mean(note.step, follow_average(self._engine, note.step, weights))

    def _mean(self, step: int, weights: Weights) -> Mean:
        self._then = weights_to_bytes(weights)
        return Mean(step=step)

    def _save(self, note: Save, _: Tensor | None) -> Done:
        if note.step != self._step:
            raise WireError(f"'save' of step {note.step} after {self._step} steps")
        state = {
            "traffic": self._engine.traffic.to_plain(),
            "evaluation_traffic": self._engine.evaluation_traffic.to_plain(),
            "identity": self._run.run.get("identity"),
        }
        save_bits(self._run.path, note.step, self._engine.stages)
        self._run.sync_metrics()
        save_checkpoint(self._run.path / "checkpoints", note.step, self._contents, state)
        self._run.record("save", note.step, path=f"checkpoints/{checkpoint_name(note.step)}")
        return Done(step=note.step)

    def _keep(self, note: Keep, _: Tensor | None) -> None:
        for path in all_checkpoints(self._run.path / "checkpoints"):
            if step_of(path) not in note.steps:
                remove_folder(path)

    def _end(self, note: End, _: Tensor | None) -> Done:
        save_outcome(self._run.path, note.step, self._contents)
        # Before the answer: the leader is done once it has it, and nobody starts this run again.
        sent = self._engine.traffic
        sums = {"wire_bytes": sent.total_bytes, "wire_values": sent.values}
        self.result = {"steps": note.step, **sums}
        self._run.log("done")
        self._run.update(status="done", ended=utc_now(), exit_code=0, result=self.result)
        return Done(step=note.step)

    def _stop(self, note: Stop, _: Tensor | None) -> None:
        raise TransportError(
            f"the leader stopped after {self._step} steps: {note.text}",
            where="party",
            hint="start all parties again with --resume",
            error_id="PEER-STOPPED",
        )
