"""A bit map as one HTML file that needs nothing else: no script, no font, no picture, no address.

Every column is a cell whose text is its width and whose tooltip says which one it is; colour only
repeats the text. The cells stand in the order of the drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from amaqctl.bit_map.colours import colour, hexadecimal, ink
from amaqctl.bit_map.report import BitReport, HeatMap, HeatRow
from amaqctl.bit_map.text import rounded, signed
from amaqctl.bit_map.why import WhySite, correlation_words

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
  color: #1b1b1b; background: #fff; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .3rem; }
.cells { display: flex; flex-wrap: wrap; font: 12px/18px ui-monospace, monospace; }
.cells span { min-width: 18px; height: 18px; text-align: center; }
.row { margin: .6rem 0; }
table { border-collapse: collapse; margin: .4rem 0; }
th, td { padding: .1rem .8rem .1rem 0; text-align: right; font-weight: normal; }
th { color: #555; } td:first-child, th:first-child, .counts td, .counts th { text-align: left; }
.bar { display: inline-block; height: .7em; background: #3b528b; }
"""


def page(report: BitReport) -> str:
    """The whole file."""
    title = escape("  ".join(report.heading[:2]))
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f"<title>{title}</title>",
        '<meta name="viewport" content="width=device-width">',
        f"<style>{_STYLE}{_cell_styles(report)}</style></head><body>",
        f"<h1>{escape(' · '.join(report.heading))}</h1>",
        *(f"<p>{escape(' · '.join(pieces))}</p>" for pieces in report.summary),
    ]
    for heat_map in report.maps:
        parts += _map(heat_map, report.is_difference)
    for item in report.why:
        parts += _why(item)
    return "\n".join([*parts, "</body></html>", ""])


def _map(heat_map: HeatMap, is_difference: bool) -> list[str]:
    first, last = heat_map.ends
    order = "in order" if first.endswith(" 0") else f"{first}, fewest to {last}"
    title = f"{heat_map.title} · " if heat_map.title else ""
    columns = f"{heat_map.num_columns} {heat_map.columns}, {order}"
    parts = [f"<h2>{escape(title)}{escape(columns)}</h2>"]
    for row in heat_map.rows:
        mean = float(row.present.mean())
        mean_text = f"{mean:+.2f}" if is_difference else f"{mean:.2f}"
        parts.append(f'<div class="row"><b>{escape(row.label.strip())}</b> mean {mean_text}')
        parts.append(f'<div class="cells">{_cells(heat_map, row, is_difference)}</div></div>')
    parts.append(_counts(heat_map.rows, is_difference))
    return parts


def _cells(heat_map: HeatMap, row: HeatRow, is_difference: bool) -> str:
    columns = row.column_numbers.tolist()
    word = escape(heat_map.column)
    cells = []
    for column, value in zip(columns, row.values_C.tolist(), strict=True):
        if not np.isfinite(value):
            cells.append(f'<span title="{word} {column}: not there"></span>')
            continue
        whole = rounded(value)
        text = signed(whole) if is_difference else str(whole)
        exact = text if value == whole else f"{value:.2f}"
        cells.append(f'<span class="{_name(whole)}" title="{word} {column}: {exact}">{text}</span>')
    return "".join(cells)


def _counts(rows: Sequence[HeatRow], is_difference: bool) -> str:
    """Table: how many columns of each row have which value."""
    counts = [_whole_counts(row) for row in rows]
    values = sorted({value for found in counts for value in found})
    highest = max(max(found.values()) for found in counts)
    head = "".join(f"<th>{signed(v) if is_difference else v}</th>" for v in values)
    name = "bits more" if is_difference else "bits"
    lines = [f'<table class="counts"><tr><th>{name}</th>{head}</tr>']
    for row, found in zip(rows, counts, strict=True):
        cells = "".join(_count_cell(found.get(value, 0), highest) for value in values)
        lines.append(f"<tr><td>{escape(row.label.strip())}</td>{cells}</tr>")
    return "\n".join([*lines, "</table>"])


def _count_cell(count: int, highest: int) -> str:
    return f'<td>{count} <span class="bar" style="width:{40 * count / highest:.0f}px"></span></td>'


def _whole_counts(row: HeatRow) -> dict[int, int]:
    whole = [rounded(value) for value in row.present.tolist()]
    return {value: whole.count(value) for value in set(whole)}


def _why(item: WhySite) -> list[str]:
    names = ("bits", "columns", "range", "gradient energy", "asked")
    lines = [
        f"<h2>{escape(item.label)}: does the width follow the sensitivity?</h2>",
        f"<p>{escape(correlation_words(item))}</p>",
        "<table><tr>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>",
    ]
    for width, count, spread, energy, asked in item.by_width():
        cells = (str(width), str(count), f"{spread:.3g}", f"{energy:.3g}", f"{asked:.2f}")
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return [*lines, "</table>"]


def _cell_styles(report: BitReport) -> str:
    rows = [row for heat_map in report.maps for row in heat_map.rows]
    whole = sorted({rounded(value) for row in rows for value in row.present.tolist()})
    largest = float(max((abs(value) for value in whole), default=0))
    rules = []
    for value in whole:
        background = colour(value, report.is_difference, largest)
        inks = f"background:{hexadecimal(background)};color:{hexadecimal(ink(background))}"
        rules.append(f".{_name(value)}{{{inks}}}")
    return "\n".join(rules)


def _name(value: int) -> str:
    """Class of a cell: b4, or m2 for -2."""
    return f"m{-value}" if value < 0 else f"b{value}"
