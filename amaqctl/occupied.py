"""Where a result is to be, something stands already: told before torch is imported.

What makes the result asks again, since another process may have been faster.
"""

from __future__ import annotations

import os
from pathlib import Path

from amaqctl.engine.run_place import refuse_occupied as refuse_run
from amaqctl.errors import InputError

__all__ = ["occupied_export", "occupied_trace", "refuse_export", "refuse_run", "refuse_trace"]


def refuse_trace(out: Path) -> None:
    """Raise InputError if there is something at ``out`` already."""
    if os.path.lexists(out):
        raise occupied_trace(out)


def refuse_export(folder: Path) -> None:
    """Raise unless ``folder`` is new or empty.

    Raises:
        InputError: it holds something, or is no folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise occupied_export(folder)


def occupied_trace(out: Path) -> InputError:
    """The error for a trace to be."""
    return InputError(
        "exists already; a trace is never overwritten",
        where=str(out),
        hint="choose another --out",
        error_id="INPUT-TRACE-EXISTS",
    )


def occupied_export(folder: Path) -> InputError:
    """The error for an export to be."""
    return InputError(
        "exists already and is not empty; nothing is overwritten",
        where=str(folder),
        hint="choose another --to",
        error_id="INPUT-EXPORT-EXISTS",
    )
