"""What parties say to each other beside tensors: orders of the leader, replies of a follower.

A note is one frame of the wire (kind 3). Its header says which note it is and how large its labels
are; its body is the note as JSON, and behind that the labels, if any, as int32, little-endian.

Legend: B batch, T tokens.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from torch import Tensor

from amaqctl.engine.run_documents import TrafficSums
from amaqctl.errors import WireError
from amaqctl.tasks.task import IGNORE_INDEX
from amaqctl.wire import read_frame, write_frame
from amaqctl.wire.frame import KIND_NOTE

MAX_NOTE_BYTES = 2**20
"""Longest note without its labels, and so the longest greeting."""
_LABEL_BYTES = 4
_Step = Annotated[int, Field(ge=0, le=2**53)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Position = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Note(BaseModel):
    """One thing said."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    kind: ClassVar[str]


class Greeting(Note):
    """Who a party is and what it is about to do; see `amaqctl.party.agreement`."""

    kind = "greeting"
    document: dict[str, JsonValue]


class Restore(Note):
    """Go on from the checkpoint of ``step``; 0: from the start."""

    kind = "restore"
    step: _Step


class Train(Note):
    """Begin a step (from 0). Labels come along for the holder of the last stage."""

    kind = "train"
    step: _Step
    num_loss_tokens: Annotated[int, Field(ge=1, le=2**53)]
    is_clean: bool


class Update(Note):
    """End the step with the L2 norm over all gradients."""

    kind = "update"
    norm: Annotated[_Finite, Field(ge=0)]


class LookNote(Note):
    """Begin a forward without training; as `amaqctl.engine.look.Look`."""

    kind = "look"
    step: _Step
    generation: _Step | None
    wants_loss: bool
    choices: tuple[_Position, ...]
    choice_positions: tuple[_Position, ...]
    wants_next: bool
    is_clean: bool


class Forget(Note):
    """A generation is over."""

    kind = "forget"
    generation: _Step


class Pass(Note):
    """Step ``step`` (from 0) is another client's turn."""

    kind = "pass"
    step: _Step


class Average(Note):
    """Take the mean of the clients' own weights, after ``step`` steps; these follow, as a frame."""

    kind = "average"
    step: _Step


class Join(Note):
    """Let this client into the run of others, at their next mean."""

    kind = "join"


class Save(Note):
    """Write the checkpoint after ``step`` steps."""

    kind = "save"
    step: _Step


class Keep(Note):
    """Drop all checkpoints but those of ``steps``."""

    kind = "keep"
    steps: tuple[_Step, ...]


class End(Note):
    """All ``step`` steps are done: write the outcome."""

    kind = "end"
    step: _Step


class Stop(Note):
    """The leader stops before the end; what is saved is saved."""

    kind = "stop"
    text: Annotated[str, Field(max_length=1000)]


class Stepped(Note):
    """What a party's stages made of a step before its update."""

    kind = "stepped"
    loss: _Finite
    norms: dict[int, Annotated[float, Field(ge=0)]]
    traffic: TrafficSums


class Looked(Note):
    """What a party saw. All None where the last stage is elsewhere."""

    kind = "looked"
    loss: float | None = None
    choices: tuple[_Position, ...] | None = None
    next_tokens: tuple[_Position, ...] | None = None
    traffic: TrafficSums


class Mean(Note):
    """The clients' mean after ``step`` steps; the weights follow, as a frame."""

    kind = "mean"
    step: _Step


class Done(Note):
    """An order that is waited for has been carried out, down to the disk."""

    kind = "done"
    step: _Step


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Annotated[str, Field(max_length=16)]
    labels: (
        tuple[Annotated[int, Field(ge=1, le=2**20)], Annotated[int, Field(ge=1, le=2**20)]] | None
    ) = None


NoteOf = TypeVar("NoteOf", bound=Note)
_KINDS: dict[str, type[Note]] = {
    cls.kind: cls
    for cls in (
        Greeting,
        Restore,
        Train,
        Update,
        LookNote,
        Forget,
        Pass,
        Average,
        Join,
        Save,
        Keep,
        End,
        Stop,
        Stepped,
        Looked,
        Mean,
        Done,
    )
}


def note_to_bytes(note: Note, labels_BT: Tensor | None = None) -> bytes:
    """One note as a frame.

    Args:
        labels_BT: int64, token ids and `IGNORE_INDEX`.

    Raises:
        QuantizationError: it is too long to be sent.
    """
    body = note.model_dump_json().encode()
    shape = None if labels_BT is None else (int(labels_BT.shape[0]), int(labels_BT.shape[1]))
    if labels_BT is not None:
        body += labels_BT.cpu().to(torch.int32).numpy().astype("<i4").tobytes()
    return write_frame(KIND_NOTE, _Header(kind=note.kind, labels=shape), body)


def note_from_bytes(data: bytes, max_bytes: int) -> tuple[Note, Tensor | None]:
    """A note, and its labels (B, T), int64, where there are some.

    Args:
        max_bytes: longest frame that the parties agreed on.

    Raises:
        WireError: it is no legal note.
    """
    header, body = read_frame(data, KIND_NOTE, _Header, max_bytes)
    cls = _KINDS.get(header.kind)
    if cls is None:
        raise WireError(f"a note of the unknown kind {header.kind!r}")
    rows, tokens = header.labels or (0, 0)
    num_label_bytes = _LABEL_BYTES * rows * tokens
    end = len(body) - num_label_bytes
    if end < 0:
        raise WireError(f"a note of {len(body)} bytes with labels of shape ({rows}, {tokens})")
    try:
        note = cls.model_validate_json(bytes(body[:end]))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "note"
        raise WireError(f"illegal {header.kind}: {place}: {first['msg']}") from error
    if header.labels is None:
        return note, None
    values = np.frombuffer(body[end:], dtype="<i4").astype(np.int64).reshape(rows, tokens)
    return note, torch.from_numpy(values)


def check_labels(labels_BT: Tensor, vocab_size: int) -> None:
    """Refuse labels that no loss can be taken of.

    Raises:
        WireError: one is neither a token nor `IGNORE_INDEX`.
    """
    is_legal = (labels_BT == IGNORE_INDEX) | ((labels_BT >= 0) & (labels_BT < vocab_size))
    if not bool(is_legal.all()):
        wrong = int(labels_BT[~is_legal][0])
        raise WireError(f"a label {wrong} where the model has {vocab_size} tokens")
