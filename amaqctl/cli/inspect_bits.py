"""`amaqctl inspect-bits`: which channel of which cut gets how many bits. Works without torch."""

from __future__ import annotations

import locale
import os
import shutil
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from amaqctl.cli.console.session import Json, Quiet, Session, Traceback, command
from amaqctl.errors import UsageError

if TYPE_CHECKING:
    from amaqctl.bit_map.report import BitReport
    from amaqctl.bit_map.text import Style

_PIPE_WIDTH = 80


class SortChoice(StrEnum):
    """In which order the columns are drawn."""

    by_index = "index"
    by_bits = "bits"


class StyleChoice(StrEnum):
    """What the cells are drawn with."""

    auto = "auto"
    digits = "digits"
    blocks = "blocks"
    ascii = "ascii"


def inspect_bits(
    run_or_trace: Annotated[str, typer.Argument(metavar="RUN|TRACE", help="A run, or a trace.")],
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", metavar="best|last|STEP|final", help="Which moment.")
    ] = "last",
    over_time: Annotated[
        bool, typer.Option("--over-time", help="Every saved step, one below the other.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="RUN2", help="How many bits more than this one."),
    ] = None,
    sort: Annotated[
        SortChoice, typer.Option("--sort", help="Draw channels in their order, or by bits.")
    ] = SortChoice.by_index,
    style: Annotated[
        StyleChoice, typer.Option("--style", help="auto adds colour on a terminal.")
    ] = StyleChoice.auto,
    why: Annotated[
        bool, typer.Option("--why", help="Does the width follow range and gradient energy?")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE", help="Write .png, .svg, .html, .csv or .json."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Draw the bit-widths of every cut and direction; the digits are the values.

    A cell is the mean width of its channels, rounded. JSON and CSV hold every channel.
    """
    with command("amaqctl.inspect-bits/1", json=json, quiet=quiet, traceback=traceback) as session:
        _check_options(checkpoint, over_time, against, style, why)
        from amaqctl.bit_map.document import document
        from amaqctl.bit_map.export import check_export, write_export
        from amaqctl.bit_map.report import left_out, report_of
        from amaqctl.bit_map.source import open_source
        from amaqctl.bit_map.why import why_sites

        if export is not None:
            check_export(export)
        source = open_source(run_or_trace, checkpoint, over_time)
        other = None if against is None else open_source(against, checkpoint, False)
        measured, without = why_sites(source) if why else ([], [])
        for label in without:
            session.note(f"{label}: its quantizer measures no range and gradient energy")
        if other is not None:
            for sentence in left_out(source, other):
                session.warn(sentence)
        report = report_of(source, other, measured, over_time, sort.value)
        data = document(source, other, measured)
        if export is not None:
            write_export(export, report, source, other, measured)
            data["export"] = str(export)
            session.note(f"saved {export}")
        text = "" if json or quiet else _drawn(session, report, style)
        session.result(data, text, str(export) if export else report.means())


def _check_options(
    checkpoint: str, over_time: bool, against: str | None, style: StyleChoice, why: bool
) -> None:
    for given, name in ((checkpoint != "last", "--checkpoint"), (why, "--why")):
        if over_time and given:
            raise UsageError(f"--over-time shows every step, so {name} has no meaning with it")
    if against is not None and (over_time or why):
        name = "--over-time" if over_time else "--why"
        raise UsageError(f"--against and {name} cannot be drawn together", hint="give one of them")
    if against is not None and style == StyleChoice.blocks:
        raise UsageError("blocks have no sign", hint="--against with --style digits or ascii")
    if checkpoint not in ("best", "last", "final") and not checkpoint.isdecimal():
        raise UsageError(
            f"--checkpoint {checkpoint}: not best, last, final or the number of a step"
        )


def _drawn(session: Session, report: BitReport, choice: StyleChoice) -> str:
    """The text for stdout; colour only with ``auto``, on a terminal that shows it."""
    from amaqctl.bit_map.text import draw
    from amaqctl.cli.console.paint import paint

    width = output_width(session.stdout)
    drawing = draw(report, width, _resolved(choice))
    if drawing.left_out:
        session.note(f"columns left out for width: {', '.join(drawing.left_out)}")
    if choice != StyleChoice.auto:
        return drawing.text()
    return paint(drawing.lines, session.stdout, width, report.is_difference)


def output_width(file: TextIO) -> int:
    """``COLUMNS`` where it is set, else the terminal's width, else 80."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    return shutil.get_terminal_size().columns if file.isatty() else _PIPE_WIDTH


def _resolved(choice: StyleChoice) -> Style:
    """``auto`` is digits, in ASCII where the locale or the terminal can do no more."""
    if choice == StyleChoice.digits:
        return "digits"
    if choice == StyleChoice.blocks:
        return "blocks"
    is_plain = os.environ.get("TERM") == "dumb" or "utf" not in locale.getencoding().lower()
    return "ascii" if choice == StyleChoice.ascii or is_plain else "digits"
