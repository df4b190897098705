"""What a bit map shows, before it is drawn: rows of values, lines of summary, and the numbers.

Terminal, page and figure draw the same `HeatMap`s; JSON and CSV hold every column of a site and
are never binned. Legend: C columns of a site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from amaqctl.bit_map.source import BitSource
from amaqctl.bit_map.why import WhySite
from amaqctl.bit_map.wording import (
    Sort,
    codeless_lines,
    codeless_of,
    ends,
    heading,
    plural,
    shares,
    snapshot_name,
    target_words,
)
from amaqctl.engine.bits_history import SiteWidths
from amaqctl.errors import InputError

Floats = NDArray[np.float64]


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
        column: what one is, in the singular; ends: what stands over the first and the last one.
        rows: at least one, each of the same length.
    """

    title: str
    column: str
    ends: tuple[str, str]
    rows: tuple[HeatRow, ...]

    @property
    def num_columns(self) -> int:
        """C."""
        return self.rows[0].values_C.size

    @property
    def columns(self) -> str:
        """The word for several columns."""
        return plural(self.column)


@dataclass(frozen=True)
class BitReport:
    """Everything that is drawn.

    Args:
        heading: pieces of the first line.
        maps: to be drawn one below the other.
        summary: lines, each as pieces that may be wrapped.
        is_difference: the values are signed differences.
        why: per site, how the width relates to the sensitivity.
        codeless: names of senders without codes, which are in no map.
    """

    heading: tuple[str, ...]
    maps: tuple[HeatMap, ...]
    summary: tuple[tuple[str, ...], ...]
    is_difference: bool = False
    why: tuple[WhySite, ...] = ()
    codeless: tuple[str, ...] = ()

    def means(self) -> str:
        """A line a row: its name and mean; then the senders without codes, which have none."""
        lines = [
            f"{' '.join(filter(None, (heat_map.title, row.label.strip())))}\t"
            f"{row.present.mean():.4f}"
            for heat_map in self.maps
            for row in heat_map.rows
        ]
        return "\n".join([*lines, *(f"{name}\tno codes" for name in self.codeless)])


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
        rows = groups.setdefault((source.column(site), site.widths_C.size), [])
        values_C = site.widths_C.astype(np.float64)
        rows.append(HeatRow(source.label(site.link, site.role), values_C[order], order))
        if site.place in asked:
            held_C = np.clip(asked[site.place].asked_bits_C, 0, 8)
            rows.append(HeatRow("  asked", held_C[order], order))
    maps = tuple(
        HeatMap("", column, ends(column, size, sort), tuple(rows))
        for (column, size), rows in groups.items()
    )
    summary = [shares(source, role, sites) for role in _roles(sites)]
    summary += codeless_lines(source)
    return BitReport(heading(source), maps, tuple(summary), False, tuple(why), codeless_of(source))


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
        column = source.column(last)
        maps.append(HeatMap(label, column, ends(column, size, sort), tuple(rows)))
        first, now = rows[0], rows[-1]
        pieces = [f"{label}  mean {first.present.mean():.2f} at {first.label}"]
        if now is not first:
            pieces.append(f"{now.present.mean():.2f} at {now.label}")
        summary.append((*pieces, *target_words(source, last.role)))
    summary += codeless_lines(source)
    names = codeless_of(source)
    return BitReport(heading(source), tuple(maps), tuple(summary), codeless=names)


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
        label, words = source.label(ours.link, ours.role), plural(source.column(ours))
        rows = groups.setdefault((source.column(ours), difference_C.size), [])
        rows.append(HeatRow(label, difference_C[order], order))
        more, fewer = int((difference_C > 0).sum()), int((difference_C < 0).sum())
        same = difference_C.size - more - fewer
        pieces = [f"{label}  more bits in {more} of {difference_C.size} {words}"]
        summary.append((*pieces, f"fewer in {fewer}", f"the same in {same}"))
    maps = tuple(
        HeatMap("", column, ends(column, size, sort), tuple(rows))
        for (column, size), rows in groups.items()
    )
    against = (f"against {heading(other)[0]}", snapshot_name(other.snapshots[0]))
    head = (*heading(source)[:2], *against)
    return BitReport(head, maps, tuple(summary), is_difference=True)


def common_sites(source: BitSource, other: BitSource) -> list[tuple[SiteWidths, SiteWidths]]:
    """Pairs of sites of the same place, size and kind of column.

    Raises:
        InputError: there is none.
    """
    theirs = other.snapshots[0]
    pairs = [(ours, theirs.site(ours.place)) for ours in source.snapshots[0].sites]
    fitting = [(a, b) for a, b in pairs if b is not None and a.widths_C.shape == b.widths_C.shape]
    common = [(a, b) for a, b in fitting if source.column(a) == other.column(b)]
    if fitting and not common:
        a, b = fitting[0]
        kinds = f"{plural(source.column(a))}, those of the other {plural(other.column(b))}"
        raise InputError(
            f"the columns of {source.label(a.link, a.role)} are {kinds}",
            where=str(other.path),
            hint="compare runs whose quantizers have columns of one kind",
            error_id="INPUT-DIFFERENT",
        )
    if not common:
        raise InputError(
            "the two have no cut and direction of the same size in common",
            where=str(other.path),
            hint="compare runs of one model, cut at the same places",
            error_id="INPUT-DIFFERENT",
        )
    return common


def left_out(source: BitSource, other: BitSource) -> list[str]:
    """Why sites are in no map of differences, a sentence each.

    Raises:
        InputError: they have no site in common.
    """
    common = {ours.place for ours, _ in common_sites(source, other)}
    found = []
    for one, another in ((source, other), (other, source)):
        name = one.path.name
        for site in one.snapshots[0].sites:
            if site.place not in common:
                like = another.snapshots[0].site(site.place)
                label = one.label(site.link, site.role)
                found.append(f"{label} of {name} {_unlike(one, site, another, like)}; left out")
        found += [f"{label} of {name} sends no codes; left out" for label in codeless_of(one)]
    return found


def _unlike(one: BitSource, site: SiteWidths, another: BitSource, like: SiteWidths | None) -> str:
    if like is None or like.widths_C.shape != site.widths_C.shape:
        return "has no like in the other"
    return f"has {plural(one.column(site))}, its like {plural(another.column(like))}"


def column_order(values_C: NDArray[np.generic], sort: Sort) -> NDArray[np.intp]:
    """Indices of the columns as they are drawn; ascending and stable when sorted."""
    if sort == "index":
        return np.arange(values_C.size)
    return np.argsort(values_C, kind="stable")


def _padded(widths_C: NDArray[np.uint8], size: int) -> Floats:
    values_C = np.full(size, np.nan)
    values_C[: widths_C.size] = widths_C
    return values_C


def _roles(sites: Sequence[SiteWidths]) -> list[str]:
    return sorted({site.role for site in sites})


def _site_key(site: SiteWidths) -> tuple[int, str, str]:
    return site.link, site.role, site.axis
