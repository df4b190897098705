"""Tables, the progress panel, sparklines: as text, or as what rich draws.

On a terminal a table drops whole columns until it fits, and says so; a number is never cropped.
In a pipe a table is tab-separated.
"""

from __future__ import annotations

import io
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """The last values as bars, low to high; a flat series is a low line."""
    shown = list(values)[-width:]
    low, high = min(shown), max(shown)
    if high == low:
        return _BARS[0] * len(shown)
    return "".join(_BARS[int((v - low) / (high - low) * (len(_BARS) - 1))] for v in shown)


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], is_terminal: bool | None = None
) -> str:
    """A table as text.

    Args:
        header: column names, most important first: the last ones are dropped first.
        rows: cells.
        is_terminal: None asks stdout.

    Returns:
        Aligned columns for a terminal, tab-separated lines for a pipe.
    """
    if not _is_terminal(is_terminal):
        return "\n".join("\t".join(row) for row in [header, *rows])
    width = Console().width
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    num_columns = len(header)
    while num_columns > 1 and sum(widths[:num_columns]) + 2 * (num_columns - 1) > width:
        num_columns -= 1
    dropped = header[num_columns:]
    if dropped:
        print(f"columns left out for width: {', '.join(dropped)}", file=sys.stderr)
    lines = []
    for row in [header, *rows]:
        is_left = [i == 0 or not (row is header or _is_number(c)) for i, c in enumerate(row)]
        cells = [
            cell.ljust(w) if left else cell.rjust(w)
            for cell, w, left in zip(row[:num_columns], widths, is_left, strict=False)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def trained_row(run: Path, more: str = "") -> tuple[str, str]:
    """Where the result of a finished run lies: its adapter, or the weights themselves."""
    name = "weights" if (run / "weights").is_dir() else "adapter"
    return name, f"{run}/{name}{more}"


def facts(rows: Sequence[tuple[str, str]], is_terminal: bool | None = None) -> str:
    """Name and value a line, names padded to one width.

    On a terminal a value that is too long goes on in the next line, below itself; a path or a
    number is never broken. In a pipe a line stays a line.

    Args:
        rows: name and value; a row without a name belongs to the one above it.
        is_terminal: None asks stdout.
    """
    width = max(len(name) for name, _ in rows)
    lines = []
    for name, value in rows:
        start = f"{name.ljust(width)}  "
        if name == "next":  # a command stays one line, however long, so that it can be copied
            lines.append(start + value)
            continue
        lines.append(wrap(start + value, " " * len(start), is_terminal).rstrip())
    return "\n".join(lines)


def wrap(text: str, indent: str = "", is_terminal: bool | None = None) -> str:
    """A line that goes on below itself where a terminal is too narrow; no word is ever broken.

    Args:
        text: one line; spaces stay as they are.
        indent: in front of every line but the first.
        is_terminal: None asks stdout.
    """
    if not _is_terminal(is_terminal):
        return text
    width = max(Console().width, len(indent) + 20)
    return "\n".join(
        textwrap.wrap(
            text,
            width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def _is_terminal(given: bool | None) -> bool:
    return bool(sys.__stdout__ and sys.__stdout__.isatty()) if given is None else given


def progress_panel(
    title: str, done: int, total: int, rows: Sequence[tuple[str, str, str]]
) -> Panel:
    """The training panel: a bar over ``done`` of ``total`` and rows of name, sparkline, text."""
    bar = Table.grid(padding=(0, 1))
    bar.add_row("step", ProgressBar(total=total, completed=done, width=24), f"{done}/{total}")
    grid = Table.grid(padding=(0, 1))
    for row in rows:
        grid.add_row(*row)
    return Panel(
        Group(bar, grid), title=title, title_align="left", subtitle="Ctrl-C: save and stop"
    )


def as_text(renderable: object, width: int) -> str:
    """Render to plain text of a given width (tests and logs)."""
    console = Console(file=io.StringIO(), width=width, height=40, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _is_number(cell: str) -> bool:
    return bool(cell) and cell.lstrip("+-")[:1].isdigit()
