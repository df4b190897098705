"""What a replayed message cost and lost, and sums of it.

Bits count every byte of the message over all values of the tensor, padding included, as in
training reports. Errors are taken over real tokens only: nothing reads what padding decodes to.

Legend: B batch, T tokens, C channels, R real tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from amaqctl.quantizer import Role, TensorContext
from amaqctl.trace.rate_distortion import decibels_above
from amaqctl.wire import SizeBreakdown

# A first message that differs in bits by more than this share from the last is listed apart.
_APART = 0.1


@dataclass(frozen=True)
class Measurement:
    """One message through one quantizer. Squares and products are sums over real values."""

    link: int
    role: Role
    step: int
    micro_batch: int
    sizes: SizeBreakdown
    num_values: int
    num_real_values: int
    squared_error: float
    squared_norm: float
    decoded_squared_norm: float
    product: float
    encode_seconds: float
    decode_seconds: float

    @property
    def bits(self) -> float:
        """Real bits a value, headers and all."""
        return 8 * self.sizes.total / self.num_values


@dataclass(frozen=True)
class Summary:
    """A row of the report: some messages of one role through one quantizer.

    Args:
        quantizer: as it was asked for.
        part: ``all`` messages, or the ``first`` or ``last`` one of each link.
        bits: 8 x bytes / values.
        ratio: times smaller than 16 bits a value.
        relative_error: Frobenius norm of the error over that of the tensors.
        cosine: of the angle between all tensors and all decoded ones; None where one is zero.
        decibels_above_limit: see `amaqctl.trace.rate_distortion`; None without an error.
        encode_ms, decode_ms: medians; quantizing and packing, unpacking and dequantizing.
    """

    quantizer: str
    role: Role
    part: str
    messages: int
    values: int
    bits: float
    ratio: float
    relative_error: float
    cosine: float | None
    decibels_above_limit: float | None
    bytes: int
    codes_bytes: int
    widths_bytes: int
    scales_bytes: int
    header_bytes: int
    encode_ms: float
    decode_ms: float


def real_rows(x_BTC: Tensor, context: TensorContext) -> Tensor:
    """The rows (R, C) of real tokens; ``lengths`` count them from the first position on."""
    if not context.lengths:
        return x_BTC.reshape(-1, x_BTC.shape[-1])
    lengths_B1 = torch.tensor(context.lengths).unsqueeze(1)
    return x_BTC[torch.arange(x_BTC.shape[1]).unsqueeze(0) < lengths_B1]


def measurement(
    context: TensorContext,
    x_BTC: Tensor,
    decoded_BTC: Tensor,
    sizes: SizeBreakdown,
    encode_seconds: float,
    decode_seconds: float,
) -> Measurement:
    """Compare what went in with what came out, in float64."""
    x_RC = real_rows(x_BTC, context).double()
    decoded_RC = real_rows(decoded_BTC, context).double()
    return Measurement(
        link=context.link,
        role=context.role,
        step=context.step,
        micro_batch=context.micro_batch,
        sizes=sizes,
        num_values=x_BTC.numel(),
        num_real_values=x_RC.numel(),
        squared_error=float((x_RC - decoded_RC).square().sum()),
        squared_norm=float(x_RC.square().sum()),
        decoded_squared_norm=float(decoded_RC.square().sum()),
        product=float((x_RC * decoded_RC).sum()),
        encode_seconds=encode_seconds,
        decode_seconds=decode_seconds,
    )


def summaries(
    quantizer: str, measured: Sequence[Measurement], variances_K: Tensor
) -> list[Summary]:
    """The row of one quantizer and role; below it first and last message where they differ.

    Args:
        quantizer: label.
        measured: messages of one role, in order; at least one.
        variances_K: of all channels of the role's links over the whole trace, for the limit.
    """
    rows = [_summary(quantizer, "all", measured, variances_K)]
    first = list({m.link: m for m in reversed(measured)}.values())
    last = list({m.link: m for m in measured}.values())
    apart = [
        _summary(quantizer, "first", first, variances_K),
        _summary(quantizer, "last", last, variances_K),
    ]
    if abs(apart[0].bits - apart[1].bits) > _APART * apart[1].bits:
        rows += apart
    return rows


def _summary(
    quantizer: str, part: str, measured: Sequence[Measurement], variances_K: Tensor
) -> Summary:
    values = sum(m.num_values for m in measured)
    real_values = sum(m.num_real_values for m in measured)
    total = sum(m.sizes.total for m in measured)
    bits = 8 * total / values
    squared_error = sum(m.squared_error for m in measured)
    above = None
    if real_values:
        above = decibels_above(squared_error / real_values, variances_K, bits)
    return Summary(
        quantizer=quantizer,
        role=measured[0].role,
        part=part,
        messages=len(measured),
        values=values,
        bits=bits,
        ratio=16 / bits,
        relative_error=_relative(squared_error, sum(m.squared_norm for m in measured)),
        cosine=_cosine(measured),
        decibels_above_limit=above,
        bytes=total,
        codes_bytes=sum(m.sizes.codes for m in measured),
        widths_bytes=sum(m.sizes.widths for m in measured),
        scales_bytes=sum(m.sizes.side for m in measured),
        header_bytes=sum(m.sizes.header for m in measured),
        encode_ms=1000 * median(m.encode_seconds for m in measured),
        decode_ms=1000 * median(m.decode_seconds for m in measured),
    )


def _relative(squared_error: float, squared_norm: float) -> float:
    if not squared_norm:
        return math.inf if squared_error else 0.0
    return math.sqrt(squared_error / squared_norm)


def _cosine(measured: Sequence[Measurement]) -> float | None:
    norms = sum(m.squared_norm for m in measured) * sum(m.decoded_squared_norm for m in measured)
    return sum(m.product for m in measured) / math.sqrt(norms) if norms else None


def as_record(row: Summary | Measurement) -> dict[str, Any]:
    """A flat record, for JSON and CSV."""
    record = dict(vars(row))
    sizes = record.pop("sizes", None)
    return record if sizes is None else {**record, **vars(sizes), "bytes": sizes.total}
