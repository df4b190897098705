"""The bit-widths that a run kept: one ``bits/*.npz`` a save, and ``final.npz`` at its end.

Needs numpy only, so that looking at a run does not wait for torch. Arrays are never unpickled.

Legend: C columns of a site (channels of the hidden state, positions of the sequence, or nothing
in particular: axis ``tensor``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amaqctl.engine.bits_report import Reports, SiteReport, read_reports
from amaqctl.engine.run_folder import RunFolder
from amaqctl.engine.widths_file import read_bits_file
from amaqctl.errors import InputError

FINAL = "final"

_PLACE = re.compile(r"link(\d{1,9})\.(activation|gradient)\.([a-z]{1,20})")


@dataclass(frozen=True)
class SiteWidths:
    """The widths of one direction of one link.

    Args:
        link, role: which one; role is ``activation`` or ``gradient``.
        axis: what a column is: ``channel``, ``position`` or ``tensor``.
        widths_C: uint8, bits a value.
    """

    link: int
    role: str
    axis: str
    widths_C: NDArray[np.uint8]

    @property
    def place(self) -> str:
        """``link<k>.<role>.<axis>``, the name in the file."""
        return f"link{self.link}.{self.role}.{self.axis}"


@dataclass(frozen=True)
class Snapshot:
    """All widths at one moment.

    Args:
        name: ``step-000040``, ``final``, or what a trace calls it.
        step: optimizer steps done by then; None where nothing tells.
        sites: by link, activation before gradient; those that send codes.
        reports: what senders said of themselves; None where nothing was kept, as in version 0.1.0.
    """

    name: str
    step: int | None
    sites: tuple[SiteWidths, ...]
    reports: Reports | None = None

    def report(self, link: int, role: str) -> SiteReport | None:
        """What one sender said, if it was kept."""
        return (self.reports or {}).get((link, role))

    @property
    def codeless(self) -> list[tuple[int, str, SiteReport]]:
        """Link, role and report of senders whose messages have no codes."""
        reports = sorted((self.reports or {}).items())
        return [(*place, report) for place, report in reports if not report.has_codes]

    def site(self, place: str) -> SiteWidths | None:
        """The site of this name in the file, if it is there."""
        return next((site for site in self.sites if site.place == place), None)


def sites_in_order(sites: Mapping[tuple[int, str, str], NDArray[np.uint8]]) -> Snapshot:
    """A nameless snapshot of widths by link, role and axis."""
    found = [SiteWidths(*place, widths_C) for place, widths_C in sorted(sites.items())]
    return Snapshot("", None, tuple(found))


def read_snapshot(path: Path, step: int | None = None) -> Snapshot:
    """Read one file of widths.

    Raises:
        InputError: it is missing, damaged, or holds something else than vectors of widths.
    """
    try:
        file = read_bits_file(path)
        sites = {_parts(name): widths_C for name, widths_C in file.widths.items()}
        reports = None if file.report is None else read_reports(file.report, file.measured)
    except FileNotFoundError:
        raise InputError("there is no such file", where=str(path), error_id="INPUT-BITS") from None
    except (InputError, ValueError) as error:
        why = error.message if isinstance(error, InputError) else str(error)
        raise InputError(
            f"bit-widths cannot be read: {why}",
            where=str(path),
            hint="choose another one with --checkpoint; the file is damaged or not amaqctl's",
            error_id="INPUT-BITS",
        ) from error
    return Snapshot(path.stem, step, sites_in_order(sites).sites, reports)


def saved_snapshots(run: RunFolder) -> list[tuple[int, Path]]:
    """Step and file of every save of a run, oldest first; ``final.npz`` is not among them."""
    files = [p for p in (run.path / "bits").glob("step-*.npz") if p.stem[5:].isdecimal()]
    return sorted((int(path.stem[5:]), path) for path in files)


def choose_snapshot(run: RunFolder, which: str) -> Snapshot:
    """The widths at one checkpoint.

    Args:
        which: ``last`` (the newest), ``final`` (the run's end), ``best`` (the saved step with the
            lowest validation loss), or a step.

    Raises:
        InputError: it is not there, or the run keeps no widths; those that are there are named.
    """
    saved = dict(saved_snapshots(run))
    final = run.path / "bits" / f"{FINAL}.npz"
    final_step = _final_step(run)
    if which == FINAL and final.exists():
        return _not_empty(run, read_snapshot(final, final_step))
    if which == "last" and final.exists() and (final_step or 0) >= max(saved, default=0):
        return _not_empty(run, read_snapshot(final, final_step))
    step = _chosen_step(run, which, saved)
    if step is None or step not in saved:
        steps = ", ".join(map(str, saved)) or "nothing"
        raise InputError(
            f"the run has no bit-widths of '{which}'",
            where=str(run.path / "bits"),
            hint=f"saved steps: {steps}{f'; and {FINAL}' if final.exists() else ''}",
            error_id="INPUT-CHECKPOINT",
        )
    return _not_empty(run, read_snapshot(saved[step], step))


def read_history(run: RunFolder) -> list[Snapshot]:
    """Every saved allocation of a run, oldest first, ``final`` where no save has its step.

    Raises:
        InputError: there is none, or one cannot be read.
    """
    history = [read_snapshot(path, step) for step, path in saved_snapshots(run)]
    final, final_step = run.path / "bits" / f"{FINAL}.npz", _final_step(run)
    steps = [snapshot.step for snapshot in history]
    if final.exists() and final_step not in steps:
        history.append(read_snapshot(final, final_step))
    if not history:
        return [choose_snapshot(run, "last")]  # which says what is missing
    history.sort(key=lambda snapshot: snapshot.step or 0)
    for snapshot in history:
        _not_empty(run, snapshot)
    return history


def _parts(name: str) -> tuple[int, str, str]:
    found = _PLACE.fullmatch(name)
    if found is None:
        raise ValueError(f"'{name[:60]}' is not a place of bit-widths")
    return int(found[1]), found[2], found[3]


def _chosen_step(run: RunFolder, which: str, saved: Mapping[int, Path]) -> int | None:
    if which.isdecimal():
        return int(which)
    if which == "last":
        return max(saved, default=None)
    if which != "best":
        return None
    scored = [
        (record["loss"], record["step"])
        for record in run.metrics()
        if record.get("kind") == "eval" and record.get("loss") is not None
    ]
    return min((pair for pair in scored if pair[1] in saved), default=(0.0, None))[1]


def _final_step(run: RunFolder) -> int | None:
    result = run.run.get("result")
    step = result.get("steps") if isinstance(result, dict) else None
    return step if isinstance(step, int) else None


def _not_empty(run: RunFolder, snapshot: Snapshot) -> Snapshot:
    if not snapshot.sites and not snapshot.codeless:
        raise InputError(
            "the run has no bit allocation: its quantizers send values without widths",
            where=str(run.path),
            hint="look at a run whose quantizer packs bits",
            error_id="INPUT-BITS",
        )
    return snapshot
