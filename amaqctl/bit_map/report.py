"""What a bit map shows, before it is drawn: rows of values, lines of summary, and the numbers.

Terminal, page and figure draw the same `HeatMap`s; JSON and CSV hold every column of a site and
are never binned. Legend: C columns of a site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from amaqctl.bit_map.source import BitSource
from amaqctl.bit_map.why import WhySite
from amaqctl.engine.bits_history import SiteWidths, Snapshot
from amaqctl.errors import InputError

Floats = NDArray[np.float64]
Sort = Literal["index", "bits"]

_PLURALS = {"channel": "channels", "position": "positions", "tensor": "columns"}


@dataclass(frozen=True)
class HeatRow:
    """One row: a value a column; NaN where a column was not there.

    Args:
        label: what stands before it.
        values_C: bits, or differences of bits, in the order in which they are drawn.
        column_numbers: which column of the site each one is.
    """

    label: str
    values_C: Floats
    column_numbers: NDArray[np.intp]

    @property
    def present(self) -> Floats:
        """The values without the absent ones."""
        found: Floats = self.values_C[np.isfinite(self.values_C)]
        return found


@dataclass(frozen=True)
class HeatMap:
    """Rows of the same columns.

    Args:
        title: what all rows are of; empty where their labels say it.
        axis: what a column is; ends: what stands over the first and the last one.
        rows: at least one, each of the same length.
    """

    title: str
    axis: str
    ends: tuple[str, str]
    rows: tuple[HeatRow, ...]

    @property
    def num_columns(self) -> int:
        """C."""
        return self.rows[0].values_C.size

    @property
    def columns(self) -> str:
        """The word for several columns."""
        return plural(self.axis)


@dataclass(frozen=True)
class BitReport:
    """Everything that is drawn.

    Args:
        heading: pieces of the first line.
        maps: to be drawn one below the other.
        summary: lines, each as pieces that may be wrapped.
        is_difference: the values are signed differences.
        why: per site, how the width relates to the sensitivity.
    """

    heading: tuple[str, ...]
    maps: tuple[HeatMap, ...]
    summary: tuple[tuple[str, ...], ...]
    is_difference: bool = False
    why: tuple[WhySite, ...] = ()

    def means(self) -> str:
        """A line a row: its name and mean."""
        return "\n".join(
            f"{' '.join(filter(None, (heat_map.title, row.label.strip())))}\t"
            f"{row.present.mean():.4f}"
            for heat_map in self.maps
            for row in heat_map.rows
        )


def plural(axis: str) -> str:
    """``channels``; an axis that is nothing in particular has columns."""
    return _PLURALS.get(axis, "columns")


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


def report_of(
    source: BitSource, other: BitSource | None, why: Sequence[WhySite], over_time: bool, sort: Sort
) -> BitReport:
    """The report that was asked for: a difference, a history, or one allocation.

    Raises:
        InputError: two sources that have no site in common.
    """
    if other is not None:
        return difference_report(source, other, sort)
    return history_report(source, sort) if over_time else allocation_report(source, why, sort)


def allocation_report(source: BitSource, why: Sequence[WhySite], sort: Sort) -> BitReport:
    """One allocation: a row a site; with ``why`` the widths that the sensitivity asks for."""
    sites = source.snapshots[0].sites
    asked = {item.place: item for item in why}
    groups: dict[tuple[str, int], list[HeatRow]] = {}
    for site in sites:
        order = column_order(site.widths_C, sort)
        rows = groups.setdefault((site.axis, site.widths_C.size), [])
        values_C = site.widths_C.astype(np.float64)
        rows.append(HeatRow(source.label(site.link, site.role), values_C[order], order))
        if site.place in asked:
            held_C = np.clip(asked[site.place].asked_bits_C, 0, 8)
            rows.append(HeatRow("  asked", held_C[order], order))
    maps = tuple(
        HeatMap("", axis, _ends(axis, size, sort), tuple(rows))
        for (axis, size), rows in groups.items()
    )
    summary = [_shares(source, role, sites) for role in _roles(sites)]
    return BitReport(heading(source), maps, tuple(summary), why=tuple(why))


def history_report(source: BitSource, sort: Sort) -> BitReport:
    """A map a site, whose rows are steps; sorted means by the widths of the last step."""
    places = {site.place: site for snapshot in source.snapshots for site in snapshot.sites}
    maps, summary = [], []
    for place, last in sorted(places.items(), key=lambda item: _site_key(item[1])):
        found = [(s, site) for s in source.snapshots if (site := s.site(place)) is not None]
        size = max(site.widths_C.size for _, site in found)
        order = column_order(_padded(found[-1][1].widths_C, size), sort)
        rows = [
            HeatRow(snapshot_name(snapshot), _padded(site.widths_C, size)[order], order)
            for snapshot, site in found
        ]
        label = source.label(last.link, last.role)
        maps.append(HeatMap(label, last.axis, _ends(last.axis, size, sort), tuple(rows)))
        first, now = rows[0], rows[-1]
        pieces = [f"{label}  mean {first.present.mean():.2f} at {first.label}"]
        if now is not first:
            pieces.append(f"{now.present.mean():.2f} at {now.label}")
        summary.append((*pieces, *_target(source, last.role)))
    return BitReport(heading(source), tuple(maps), tuple(summary))


def difference_report(source: BitSource, other: BitSource, sort: Sort) -> BitReport:
    """Widths of ``source`` minus those of ``other``, by site.

    Raises:
        InputError: they have no site of the same size in common.
    """
    groups: dict[tuple[str, int], list[HeatRow]] = {}
    summary = []
    for ours, theirs in common_sites(source, other):
        difference_C = ours.widths_C.astype(np.float64) - theirs.widths_C
        order = column_order(difference_C, sort)
        label, words = source.label(ours.link, ours.role), plural(ours.axis)
        rows = groups.setdefault((ours.axis, difference_C.size), [])
        rows.append(HeatRow(label, difference_C[order], order))
        more, fewer = int((difference_C > 0).sum()), int((difference_C < 0).sum())
        same = difference_C.size - more - fewer
        pieces = [f"{label}  more bits in {more} of {difference_C.size} {words}"]
        summary.append((*pieces, f"fewer in {fewer}", f"the same in {same}"))
    maps = tuple(
        HeatMap("", axis, _ends(axis, size, sort), tuple(rows))
        for (axis, size), rows in groups.items()
    )
    against = (f"against {heading(other)[0]}", snapshot_name(other.snapshots[0]))
    head = (*heading(source)[:2], *against)
    return BitReport(head, maps, tuple(summary), is_difference=True)


def common_sites(source: BitSource, other: BitSource) -> list[tuple[SiteWidths, SiteWidths]]:
    """Pairs of sites of the same place and size.

    Raises:
        InputError: there is none.
    """
    theirs = other.snapshots[0]
    pairs = [(ours, theirs.site(ours.place)) for ours in source.snapshots[0].sites]
    common = [(a, b) for a, b in pairs if b is not None and a.widths_C.shape == b.widths_C.shape]
    if not common:
        raise InputError(
            "the two have no cut and direction of the same size in common",
            where=str(other.path),
            hint="compare runs of one model, cut at the same places",
            error_id="INPUT-DIFFERENT",
        )
    return common


def sites_without_like(source: BitSource, other: BitSource) -> list[str]:
    """Sites that only one of the two has, as ``cut05.act of NAME``.

    Raises:
        InputError: they have no site in common.
    """
    common = {ours.place for ours, _ in common_sites(source, other)}
    return [
        f"{one.label(site.link, site.role)} of {one.path.name}"
        for one in (source, other)
        for site in one.snapshots[0].sites
        if site.place not in common
    ]


def column_order(values_C: NDArray[np.generic], sort: Sort) -> NDArray[np.intp]:
    """Indices of the columns as they are drawn; ascending and stable when sorted."""
    if sort == "index":
        return np.arange(values_C.size)
    return np.argsort(values_C, kind="stable")


def _ends(axis: str, size: int, sort: Sort) -> tuple[str, str]:
    if sort == "bits":
        return f"{plural(axis)} by bits", "most"
    return f"{axis if axis in ('channel', 'position') else 'column'} 0", str(size - 1)


def _padded(widths_C: NDArray[np.uint8], size: int) -> Floats:
    values_C = np.full(size, np.nan)
    values_C[: widths_C.size] = widths_C
    return values_C


def _roles(sites: Sequence[SiteWidths]) -> list[str]:
    return sorted({site.role for site in sites})


def _site_key(site: SiteWidths) -> tuple[int, str, str]:
    return site.link, site.role, site.axis


def _shares(source: BitSource, role: str, sites: Sequence[SiteWidths]) -> tuple[str, ...]:
    """How many columns of a direction have the smallest and the largest width, and the target."""
    ours = [site for site in sites if site.role == role]
    widths = np.concatenate([site.widths_C for site in ours])
    options = source.options.get(role, {})
    low = int(options.get("min_bits", widths.min()))
    high = int(options.get("max_bits", widths.max()))
    words = plural(ours[0].axis)
    if low == high:
        return (f"{role}  all {widths.size} {words} at {low} bits", *_target(source, role))
    at_low, at_high = int((widths == low).sum()), int((widths == high).sum())
    return (
        f"{role}  at {low} bits {at_low} of {widths.size} {words} ({at_low / widths.size:.1%})",
        f"at {high} bits {at_high} ({at_high / widths.size:.1%})",
        *_target(source, role),
    )


def _target(source: BitSource, role: str) -> tuple[str, ...]:
    target = source.target_bits(role)
    return () if target is None else (f"target {target:.2f}",)
