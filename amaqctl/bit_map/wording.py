"""The words around the maps: the heading, what a column is called, and the lines below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from amaqctl.bit_map.source import BitSource
from amaqctl.engine.bits_history import SiteWidths, Snapshot

Sort = Literal["index", "bits"]


def plural(column: str) -> str:
    """``channels``, ``frequencies``."""
    if column.endswith("y") and column[-2:-1] not in "aeiou":
        return f"{column[:-1]}ies"
    return f"{column}es" if column.endswith(("s", "x", "ch", "sh")) else f"{column}s"


def heading(source: BitSource) -> tuple[str, ...]:
    """Name, step and quantizers, for the first line."""
    pieces = [f"{source.kind} {source.path.name or source.path.resolve().name}"]
    if len(source.snapshots) == 1:
        pieces.append(snapshot_name(source.snapshots[0]))
    pieces += [f"{role} by {name}" for role, name in source.quantizers.items()]
    return tuple(pieces)


def snapshot_name(snapshot: Snapshot) -> str:
    """``step 40``, or its own name where no step is known."""
    return snapshot.name if snapshot.step is None else f"step {snapshot.step}"


def ends(column: str, size: int, sort: Sort) -> tuple[str, str]:
    """What stands over the first and the last of the columns."""
    if sort == "bits":
        return f"{plural(column)} by bits", "most"
    return f"{column} 0", str(size - 1)


def shares(source: BitSource, role: str, sites: Sequence[SiteWidths]) -> tuple[str, ...]:
    """How many columns of a direction have the smallest and the largest width, and the target."""
    ours = [site for site in sites if site.role == role]
    widths = np.concatenate([site.widths_C for site in ours])
    reports = [source.snapshots[-1].report(site.link, site.role) for site in ours]
    legal = [r.legal_bits for r in reports if r is not None and r.legal_bits is not None]
    low = min([int(widths.min()), *(bits[0] for bits in legal)])
    high = max([int(widths.max()), *(bits[1] for bits in legal)])
    words = plural(source.column(ours[0]))
    if low == high:
        return (f"{role}  all {widths.size} {words} at {low} bits", *target_words(source, role))
    at_low, at_high = int((widths == low).sum()), int((widths == high).sum())
    return (
        f"{role}  at {low} bits {at_low} of {widths.size} {words} ({at_low / widths.size:.1%})",
        f"at {high} bits {at_high} ({at_high / widths.size:.1%})",
        *target_words(source, role),
    )


def codeless_of(source: BitSource) -> tuple[str, ...]:
    """Names of the senders whose messages have no codes, each once."""
    places = {place[:2] for snapshot in source.snapshots for place in snapshot.codeless}
    return tuple(source.label(*place) for place in sorted(places))


def codeless_lines(source: BitSource) -> list[tuple[str, ...]]:
    """A line for each sender without codes: the bits a value that it really takes."""
    lines: dict[tuple[int, str], list[str]] = {}
    for snapshot in source.snapshots:
        for link, role, report in snapshot.codeless:
            when = f" at {snapshot_name(snapshot)}" if len(source.snapshots) > 1 else ""
            text = f"{report.bits_a_value:.2f} bits a value{when}"
            lines.setdefault((link, role), []).append(text)
    return [
        (f"{source.label(*place)}  no codes, {texts[0]}", *texts[1:])
        for place, texts in sorted(lines.items())
    ]


def target_words(source: BitSource, role: str) -> tuple[str, ...]:
    """The mean width that a direction aims at; nothing where it aims at none."""
    target = source.target_bits(role)
    return () if target is None else (f"target {target:.2f}",)
