"""Replay a trace through several quantizers, in one pass over the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amaqctl import registry
from amaqctl.errors import InputError, QuantizationError
from amaqctl.quantizer import Quantizer, Role
from amaqctl.trace.choice import Choice
from amaqctl.trace.measure import Summary, as_record, real_rows, summaries
from amaqctl.trace.rate_distortion import ChannelMoments
from amaqctl.trace.reader import Trace
from amaqctl.trace.replay import Replay
from amaqctl.wire import Message

ROLES: tuple[Role, ...] = ("activation", "gradient")


@dataclass(frozen=True)
class Report:
    """What came out.

    Args:
        trace: what was replayed.
        num_messages, num_values: of the wanted roles.
        rows: by role, then in the order of the quantizers.
        skipped: quantizer, role and reason of what was left out.
        variances: of all channels of a role's links, for the limit.
        replays: for their single messages.
    """

    trace: Trace
    num_messages: int
    num_values: int
    rows: list[Summary]
    skipped: list[tuple[str, Role, str]]
    variances: dict[Role, Tensor]
    replays: Sequence[Replay]

    def document(self) -> dict[str, Any]:
        """All of it as plain values."""
        skipped = [dict(zip(("quantizer", "role", "reason"), s, strict=True)) for s in self.skipped]
        return {
            "trace": str(self.trace.path),
            "trace_bytes": self.trace.num_bytes,
            "recorded": self.trace.header.model_dump(mode="json", exclude={"sites"}),
            "num_messages": self.num_messages,
            "num_values": self.num_values,
            "rows": [as_record(row) for row in self.rows],
            "skipped": skipped,
            "messages": [
                {"quantizer": replay.choice.label, **as_record(m)}
                for replay in self.replays
                for m in replay.measured
                if m.role in self.variances
            ],
        }


def replay_trace(
    trace: Trace, choices: Sequence[Choice], roles: Sequence[Role] = ROLES, verify: bool = False
) -> Report:
    """Send every tensor of a trace through every quantizer.

    Args:
        trace: raw tensors, in order.
        choices: the quantizers. A gradient may reuse the widths of its activation; for a
            quantizer that sends no activations they are those of the nearest one before it.
        roles: what to report; activations are always replayed, since gradients may need them.
        verify: compare bit for bit what is decoded from bytes and what went into them.

    Raises:
        InputError: the trace is damaged, or holds nothing of the roles.
        QuantizationError: a quantizer breaks its contract, or none can send the roles.
        CheckError: verification found a difference.
    """
    lr = trace.header.quantizer_lr
    replays = [Replay(choice, lr, verify) for choice in choices]
    moments: dict[tuple[Role, int], ChannelMoments] = {}
    recorders: dict[tuple[int, Role, str], Quantizer] = {}
    num_messages = num_values = 0
    shapes: dict[tuple[int, int], Any] = {}
    for number, message in enumerate(trace):
        context = message.context
        x_BTC = _recorded_tensor(trace, number, message, recorders)
        _check_partner(trace, number, message, shapes)
        if context.role in roles:
            num_messages += 1
            num_values += x_BTC.numel()
            channel = moments.setdefault(
                (context.role, context.link), ChannelMoments(x_BTC.shape[-1])
            )
            channel.add(real_rows(x_BTC, context))
        _feed(trace, replays, message, x_BTC, is_wanted=context.role in roles)
    if not num_messages:
        raise InputError(
            f"holds no {' or '.join(roles)}", where=str(trace.path), error_id="INPUT-TRACE"
        )
    variances = {
        role: torch.cat([m.variances_C for (r, _), m in sorted(moments.items()) if r == role])
        for role in roles
        if any(r == role for r, _ in moments)
    }
    rows, skipped = _rows(replays, variances), _skipped(replays, roles)
    if not rows:
        label, role, reason = skipped[0]
        raise QuantizationError(
            f"'{label}' cannot send a {role}: {reason}",
            hint="choose another quantizer with -q, or another --role",
        )
    return Report(trace, num_messages, num_values, rows, skipped, variances, replays)


def _feed(
    trace: Trace, replays: Sequence[Replay], message: Message, x_BTC: Tensor, is_wanted: bool
) -> None:
    context = message.context
    site = trace.site(context.link, context.role).site()
    codes = message.quantized.codes
    widths = None if codes is None else codes.allocation
    for replay in replays:
        if context.role == "activation":
            widths = replay.activation(site, context, x_BTC, widths)
        else:
            replay.gradient(site, context, x_BTC, is_sent=is_wanted)


def _recorded_tensor(
    trace: Trace,
    number: int,
    message: Message,
    recorders: dict[tuple[int, Role, str], Quantizer],
) -> Tensor:
    """The tensor as it was, decoded by the quantizer that recorded it."""
    context = message.context
    place = (context.link, context.role, message.quantizer)
    if place not in recorders:
        cls = registry.load(registry.QUANTIZERS, message.quantizer)
        recorders[place] = cls(cls.Config(), trace.site(context.link, context.role).site())
    try:
        x_BTC = recorders[place].dequantize(message.quantized, context)
    except Exception as error:
        raise InputError(
            f"record {number} cannot be decoded: {type(error).__name__}: {error}",
            where=str(trace.path),
            hint="record it again",
            error_id="INPUT-TRACE-DAMAGED",
        ) from error
    if not bool(x_BTC.isfinite().all()):
        raise InputError(
            f"record {number} holds NaN or infinity",
            where=str(trace.path),
            error_id="INPUT-TRACE-DAMAGED",
        )
    return x_BTC


def _check_partner(
    trace: Trace, number: int, message: Message, shapes: dict[tuple[int, int], Any]
) -> None:
    """A gradient has the step, shape and dtype of the activation that it is for."""
    context, quantized = message.context, message.quantized
    place = (context.link, context.micro_batch)
    facts = (context.step, quantized.shape, quantized.dtype)
    if context.role == "activation":
        shapes[place] = facts
    elif shapes.pop(place, None) != facts:
        raise InputError(
            f"record {number}: a gradient of link {context.link} step {context.step} without "
            "the activation that it is for",
            where=str(trace.path),
            hint="record it again",
            error_id="INPUT-TRACE-DAMAGED",
        )


def _rows(replays: Sequence[Replay], variances: dict[Role, Tensor]) -> list[Summary]:
    rows = []
    for role, variances_K in variances.items():
        for replay in replays:
            measured = [m for m in replay.measured if m.role == role]
            if measured:
                rows += summaries(replay.choice.label, measured, variances_K)
    return rows


def _skipped(replays: Sequence[Replay], roles: Sequence[Role]) -> list[tuple[str, Role, str]]:
    return [
        (replay.choice.label, role, replay.skipped[role])
        for replay in replays
        for role in roles
        if role in replay.skipped
    ]
