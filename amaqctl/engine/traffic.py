"""Bytes really sent, by link and direction. Nothing here computes a size: it is told lengths."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from amaqctl.bits import BitAllocation
from amaqctl.transports.transport import Address
from amaqctl.wire import SizeBreakdown


@dataclass
class ChannelTraffic:
    """Sums over the messages of one direction of one link.

    ``values`` counts tensor values, padding included. Widths are those of the codes; a message
    that carries none (an AQ-SGD first visit) leaves them alone.
    """

    messages: int = 0
    values: int = 0
    codes_bytes: int = 0
    widths_bytes: int = 0
    side_bytes: int = 0
    header_bytes: int = 0
    width_sum: float = 0.0
    width_columns: int = 0
    min_width: int | None = None
    max_width: int | None = None

    def add(self, sizes: SizeBreakdown, num_values: int, allocation: BitAllocation | None) -> None:
        """Count one message of ``sizes.total`` bytes."""
        self.messages += 1
        self.values += num_values
        self.codes_bytes += sizes.codes
        self.widths_bytes += sizes.widths
        self.side_bytes += sizes.side
        self.header_bytes += sizes.header
        if allocation is None or not allocation.num_columns:
            return
        low, high = (int(v) for v in allocation.widths_C.aminmax())
        self.width_sum += allocation.mean_bits * allocation.num_columns
        self.width_columns += allocation.num_columns
        self.min_width = low if self.min_width is None else min(low, self.min_width)
        self.max_width = high if self.max_width is None else max(high, self.max_width)

    @property
    def total_bytes(self) -> int:
        """Lengths of all messages, headers and scales included."""
        return self.codes_bytes + self.widths_bytes + self.side_bytes + self.header_bytes

    @property
    def bits_a_value(self) -> float:
        """Real bits a value: 8 x bytes / values; 0 when nothing was sent."""
        return 8 * self.total_bytes / self.values if self.values else 0.0

    @property
    def mean_width(self) -> float | None:
        """Mean bit-width of the codes alone, or None when there were no codes."""
        return self.width_sum / self.width_columns if self.width_columns else None


@dataclass
class Traffic:
    """A ledger of channels."""

    channels: dict[Address, ChannelTraffic] = field(
        default_factory=lambda: defaultdict(ChannelTraffic)
    )

    def __iter__(self) -> Iterator[tuple[Address, ChannelTraffic]]:
        return iter(sorted(self.channels.items()))

    @property
    def total_bytes(self) -> int:
        """All links, both directions."""
        return sum(channel.total_bytes for channel in self.channels.values())

    @property
    def values(self) -> int:
        """Values sent, all links, both directions."""
        return sum(channel.values for channel in self.channels.values())

    def of_role(self, role: str) -> ChannelTraffic:
        """One direction summed over all links."""
        total = ChannelTraffic()
        for address, channel in self:
            if address.role == role:
                total = _sum(total, channel)
        return total

    def include(self, other: Traffic) -> None:
        """Add another ledger to this one."""
        for address, channel in other:
            self.channels[address] = _sum(self.channels[address], channel)

    def to_plain(self) -> dict[str, Any]:
        """The sums as JSON values, by ``<link>/<role>``."""
        return {f"{address.link}/{address.role}": asdict(channel) for address, channel in self}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Traffic:
        """The ledger that `to_plain` wrote down."""
        traffic = cls()
        for place, sums in plain.items():
            link, role = place.split("/")
            traffic.channels[Address(int(link), role)] = ChannelTraffic(**sums)
        return traffic

    def metrics(self) -> dict[str, float | int]:
        """Flat keys for `metrics.jsonl`: bytes, real bits a value, and widths by channel."""
        flat: dict[str, float | int] = {"wire/total_bytes": self.total_bytes}
        for address, channel in self:
            place = f"{address.link}/{address.role}"
            flat[f"wire/{place}_bytes"] = channel.total_bytes
            flat[f"wire/{place}_bits_a_value"] = channel.bits_a_value
            if channel.mean_width is not None:
                assert channel.min_width is not None
                assert channel.max_width is not None
                flat[f"bits/{place}_mean"] = channel.mean_width
                flat[f"bits/{place}_min"] = channel.min_width
                flat[f"bits/{place}_max"] = channel.max_width
        return flat


def bits_summary(last: Traffic, run: Traffic) -> dict[str, float | int]:
    """Real bits a value, by direction, in the last step and over the run; bytes and values."""
    summary: dict[str, float | int] = {}
    for role in ("activation", "gradient"):
        summary[f"{role}_bits_at_end"] = last.of_role(role).bits_a_value
        summary[f"{role}_bits_over_run"] = run.of_role(role).bits_a_value
    return {**summary, "wire_bytes": run.total_bytes, "wire_values": run.values}


def _sum(a: ChannelTraffic, b: ChannelTraffic) -> ChannelTraffic:
    lows = [w for w in (a.min_width, b.min_width) if w is not None]
    highs = [w for w in (a.max_width, b.max_width) if w is not None]
    return ChannelTraffic(
        messages=a.messages + b.messages,
        values=a.values + b.values,
        codes_bytes=a.codes_bytes + b.codes_bytes,
        widths_bytes=a.widths_bytes + b.widths_bytes,
        side_bytes=a.side_bytes + b.side_bytes,
        header_bytes=a.header_bytes + b.header_bytes,
        width_sum=a.width_sum + b.width_sum,
        width_columns=a.width_columns + b.width_columns,
        min_width=min(lows) if lows else None,
        max_width=max(highs) if highs else None,
    )
