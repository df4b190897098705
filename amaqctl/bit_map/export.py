"""Write a bit map to a file; the suffix says as what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from amaqctl.bit_map.document import SCHEMA, csv_text, document
from amaqctl.bit_map.report import BitReport
from amaqctl.bit_map.source import BitSource
from amaqctl.bit_map.why import WhySite
from amaqctl.errors import InputError, ResourceError, UsageError
from amaqctl.extras import plotting
from amaqctl.storage import disk_error, write_file, write_text

SUFFIXES = (".png", ".svg", ".html", ".csv", ".json")
_DRAWN = (".png", ".svg")


def check_export(path: Path) -> None:
    """Refuse a file that could not be written, before anything is read.

    Raises:
        UsageError: an unknown suffix.
        InputError: a figure without matplotlib.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(
            f"--export {path}: the suffix says the format, and '{path.suffix}' is none",
            hint=f"one of {', '.join(SUFFIXES)}",
            error_id="USAGE-EXPORT",
        )
    if suffix in _DRAWN:
        plotting("matplotlib.figure", str(path), ".html, .csv or .json")


def write_export(
    path: Path,
    report: BitReport,
    source: BitSource,
    other: BitSource | None,
    why: Sequence[WhySite],
) -> None:
    """Write the file, whole or not at all.

    Raises:
        ResourceError: it cannot be written.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in _DRAWN and not report.maps:
            raise InputError(
                "there is nothing to draw: no quantizer sends codes",
                where=str(source.path),
                hint="--export to .html, .csv or .json",
                error_id="INPUT-BITS",
            )
        if suffix in _DRAWN:
            from amaqctl.bit_map.figure import save_figure

            write_file(path, lambda temporary: save_figure(report, temporary, suffix[1:]))
        elif suffix == ".html":
            from amaqctl.bit_map.page import page

            write_text(path, page(report))
        elif suffix == ".csv":
            write_text(path, csv_text(source, other, why))
        else:
            body = {"schema": SCHEMA, "data": document(source, other, why)}
            write_text(path, json.dumps(body, indent=1, allow_nan=False) + "\n")
    except (ResourceError, OSError) as error:
        failure = error if isinstance(error, ResourceError) else disk_error(error, path)
        failure.hint = "choose another place for --export"
        raise failure from error
