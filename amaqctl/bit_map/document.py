"""The numbers of a bit map as a JSON document and as CSV: every column of every site, unbinned."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amaqctl.bit_map.report import common_sites
from amaqctl.bit_map.source import BitSource
from amaqctl.bit_map.why import WhySite
from amaqctl.engine.bits_history import SiteWidths, Snapshot

SCHEMA = "amaqctl.inspect-bits/1"

_PLACE_COLUMNS = ("step", "site", "link", "cut", "role", "axis", "column", "index")


def document(source: BitSource, other: BitSource | None, why: Sequence[WhySite]) -> dict[str, Any]:
    """What ``--json`` prints and ``--export FILE.json`` writes.

    ``allocations`` has one entry a step; ``differences`` and ``why`` are there when asked for.
    """
    data: dict[str, Any] = {
        "kind": source.kind,
        "source": str(source.path),
        "quantizers": source.quantizers,
        "allocations": [_allocation(source, snapshot) for snapshot in source.snapshots],
    }
    if other is not None:
        data["against"] = {
            "kind": other.kind,
            "source": str(other.path),
            "allocations": [_allocation(other, snapshot) for snapshot in other.snapshots],
        }
        data["differences"] = [
            {**_place(source, ours), **_difference(ours.widths_C, theirs.widths_C)}
            for ours, theirs in common_sites(source, other)
        ]
    if why:
        data["why"] = [_why(item) for item in why]
    return data


def csv_text(source: BitSource, other: BitSource | None, why: Sequence[WhySite]) -> str:
    """A line a column of a site, in the order of columns; empty where nothing was measured."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    if other is not None:
        writer.writerow([*_PLACE_COLUMNS, "bits", "bits_against", "difference"])
        for ours, theirs in common_sites(source, other):
            pairs = zip(ours.widths_C.tolist(), theirs.widths_C.tolist(), strict=True)
            places = _csv_places(source, source.snapshots[0], ours)
            for place, (a, b) in zip(places, pairs, strict=True):
                writer.writerow([*place, a, b, a - b])
        return file.getvalue()
    measured = {item.place: item for item in why}
    extra = ["range", "gradient_energy", "asked_bits"] if why else []
    writer.writerow([*_PLACE_COLUMNS, "bits", *extra])
    for snapshot in source.snapshots:
        for site in snapshot.sites:
            item = measured.get(site.place)
            for place in _csv_places(source, snapshot, site):
                index = place[-1]
                row = [*place, int(site.widths_C[index])]
                writer.writerow(row + (_csv_measured(item, index) if why else []))
        for link, role, report in snapshot.codeless:
            label, cut = source.label(link, role), source.cut(link)
            row = [snapshot.step, label, link, cut, role, "no codes", "", ""]
            writer.writerow([*row, report.bits_a_value, *([""] * len(extra))])
    return file.getvalue()


def _allocation(source: BitSource, snapshot: Snapshot) -> dict[str, Any]:
    sites = [{**_place(source, site), **_widths(source, site)} for site in snapshot.sites]
    codeless = [
        {
            "site": source.label(link, role),
            "link": link,
            "cut": source.cut(link),
            "role": role,
            "bits_a_value": report.bits_a_value,
        }
        for link, role, report in snapshot.codeless
    ]
    facts = {"name": snapshot.name, "step": snapshot.step}
    return {**facts, "sites": sites, "without_codes": codeless}


def _place(source: BitSource, site: SiteWidths) -> dict[str, Any]:
    return {
        "site": source.label(site.link, site.role),
        "link": site.link,
        "cut": source.cut(site.link),
        "role": site.role,
        "axis": site.axis,
        "column": source.column(site),
    }


def _widths(source: BitSource, site: SiteWidths) -> dict[str, Any]:
    widths, counts = np.unique(site.widths_C, return_counts=True)
    return {
        "num_columns": site.widths_C.size,
        "mean_bits": float(site.widths_C.mean()),
        "target_bits": source.target_bits(site.role),
        "counts": {str(w): int(n) for w, n in zip(widths, counts, strict=True)},
        "widths": site.widths_C.tolist(),
    }


def _difference(ours_C: NDArray[np.uint8], theirs_C: NDArray[np.uint8]) -> dict[str, Any]:
    difference_C = ours_C.astype(np.int64) - theirs_C
    return {
        "mean_difference": float(difference_C.mean()),
        "num_more": int((difference_C > 0).sum()),
        "num_fewer": int((difference_C < 0).sum()),
        "difference": difference_C.tolist(),
    }


def _why(item: WhySite) -> dict[str, Any]:
    spearman, pearson = item.measured.correlations(item.widths_C)
    return {
        "site": item.label,
        "spearman": spearman,
        "pearson": pearson,
        "range": _numbers(item.measured.range_K),
        "gradient_energy": _numbers(item.measured.gradient_energy_K),
        "asked_bits": _numbers(item.asked_bits_C),
    }


def _numbers(values_C: NDArray[np.float64]) -> list[float | None]:
    """Null where nothing was measured."""
    return [value if np.isfinite(value) else None for value in values_C.tolist()]


def _csv_places(
    source: BitSource, snapshot: Snapshot, site: SiteWidths
) -> Iterator[tuple[Any, ...]]:
    place = _place(source, site)
    for index in range(site.widths_C.size):
        yield (snapshot.step, *place.values(), index)


def _csv_measured(item: WhySite | None, index: int) -> list[float | None]:
    if item is None:
        return [None, None, None]
    columns = (item.measured.range_K, item.measured.gradient_energy_K, item.asked_bits_C)
    return [_numbers(values_C[index : index + 1])[0] for values_C in columns]
