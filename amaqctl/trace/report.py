"""Replay a trace through several quantizers, in one pass over the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amaqctl.errors import AmaqError, InputError, PluginError, QuantizationError
from amaqctl.quantizer import Role, TensorContext
from amaqctl.trace.choice import Choice
from amaqctl.trace.measure import Summary, as_record, real_rows, summaries
from amaqctl.trace.rate_distortion import ChannelMoments
from amaqctl.trace.reader import Trace
from amaqctl.trace.replay import Replay
from amaqctl.trace.tensors import RecordedTensors
from amaqctl.wire import Message

ROLES: tuple[Role, ...] = ("activation", "gradient")


@dataclass(frozen=True)
class Report:
    """What came out.

    Args:
        trace: what was replayed.
        num_messages, num_values: of the wanted roles.
        has_revisits: whether a sample comes twice, without which no memory can save anything.
        variances: of all channels of a role's links, by role, for the limit.
        rows: by role, then in the order of the quantizers.
        skipped: quantizer, role and reason of what was left out.
        replays: for their single messages.
        failures: quantizers that failed on the way, and how; their figures are left out.
    """

    trace: Trace
    num_messages: int
    num_values: int
    has_revisits: bool
    variances: dict[Role, Tensor]
    rows: list[Summary]
    skipped: list[tuple[str, Role, str]]
    replays: Sequence[Replay]
    failures: Sequence[tuple[str, AmaqError]] = ()

    def document(self) -> dict[str, Any]:
        """All of it as plain values."""
        skipped = [dict(zip(("quantizer", "role", "reason"), s, strict=True)) for s in self.skipped]
        return {
            "trace": str(self.trace.path),
            "trace_bytes": self.trace.num_bytes,
            "recorded": self.trace.header.model_dump(mode="json", exclude={"sites"}),
            "num_messages": self.num_messages,
            "num_values": self.num_values,
            "has_revisits": self.has_revisits,
            "rows": [as_record(row) for row in self.rows],
            "skipped": skipped,
            "failures": [{"quantizer": q, "error": str(e)} for q, e in self.failures],
            "messages": [
                {"quantizer": replay.choice.label, **as_record(m)}
                for replay in self.replays
                for m in replay.measured
                if m.role in self.variances
            ],
        }


class _Contents:
    """What the trace holds of the wanted roles."""

    def __init__(self) -> None:
        self.num_messages = 0
        self.num_values = 0
        self._moments: dict[tuple[Role, int], ChannelMoments] = {}
        self._visits: Counter[tuple[int, Role, int]] = Counter()

    def add(self, context: TensorContext, x_BTC: Tensor) -> None:
        self.num_messages += 1
        self.num_values += x_BTC.numel()
        self._visits.update((context.link, context.role, sample) for sample in context.sample_ids)
        place = (context.role, context.link)
        if place not in self._moments:
            self._moments[place] = ChannelMoments(x_BTC.shape[-1])
        self._moments[place].add(real_rows(x_BTC, context))

    @property
    def has_revisits(self) -> bool:
        return any(count > 1 for count in self._visits.values())

    def variances(self) -> dict[Role, Tensor]:
        """Of all channels of all links, by role."""
        found: dict[Role, list[Tensor]] = {}
        for (role, _), moments in sorted(self._moments.items()):
            found.setdefault(role, []).append(moments.variances_C)
        return {role: torch.cat(parts) for role, parts in found.items()}


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
        QuantizationError, PluginError: none of the quantizers can send the roles. One that fails
            costs its own figures only.
        CheckError: verification found a difference.
    """
    replays = [Replay(choice, trace.header.quantizer_lr, verify) for choice in choices]
    contents = _Contents()
    for message, x_BTC in RecordedTensors(trace):
        is_wanted = message.context.role in roles
        if is_wanted:
            contents.add(message.context, x_BTC)
        _feed(trace, replays, message, x_BTC, is_wanted)
    if not contents.num_messages:
        raise InputError(
            f"holds no {' or '.join(roles)}", where=str(trace.path), error_id="INPUT-TRACE"
        )
    variances = contents.variances()
    report = Report(
        trace,
        contents.num_messages,
        contents.num_values,
        contents.has_revisits,
        variances,
        _rows(replays, variances),
        _skipped(replays, roles),
        [replay for replay in replays if replay.failure is None],
        [(r.choice.label, r.failure) for r in replays if r.failure is not None],
    )
    if not report.rows and report.failures:
        raise report.failures[0][1]
    if not report.rows:
        label, role, reason = report.skipped[0]
        raise QuantizationError(
            f"'{label}' cannot send a {role}: {reason}",
            hint="choose another quantizer with -q, or another --role",
        )
    return report


def _feed(
    trace: Trace, replays: Sequence[Replay], message: Message, x_BTC: Tensor, is_wanted: bool
) -> None:
    context = message.context
    site = trace.site(context.link, context.role).site()
    codes = message.quantized.codes
    widths = None if codes is None else codes.allocation
    for replay in replays:
        if replay.failure is not None:
            continue
        try:
            if context.role == "activation":
                widths = replay.activation(site, context, x_BTC, widths)
            else:
                replay.gradient(site, context, x_BTC, is_sent=is_wanted)
        except (PluginError, QuantizationError) as error:
            replay.failure = error


def _rows(replays: Sequence[Replay], variances: dict[Role, Tensor]) -> list[Summary]:
    rows = []
    for role, variances_K in variances.items():
        for replay in replays:
            measured = [m for m in replay.measured if m.role == role]
            if measured and replay.failure is None:
                rows += summaries(replay.choice.label, measured, variances_K)
    return rows


def _skipped(replays: Sequence[Replay], roles: Sequence[Role]) -> list[tuple[str, Role, str]]:
    return [
        (replay.choice.label, role, replay.skipped[role])
        for replay in replays
        for role in roles
        if role in replay.skipped
    ]
