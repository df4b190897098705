"""Where a bit map comes from: a run folder or a trace, with what is known of its sites."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from amaqctl import registry
from amaqctl.engine.bits_history import (
    FINAL,
    SiteWidths,
    Snapshot,
    choose_snapshot,
    read_history,
    sites_in_order,
)
from amaqctl.engine.bits_report import SiteReport
from amaqctl.engine.run_folder import RunFolder, find_run
from amaqctl.errors import InputError
from amaqctl.profile import load_profile

_RUNS = Path("runs")


@dataclass(frozen=True)
class BitSource:
    """Snapshots of one run or trace.

    Args:
        kind: ``run`` or ``trace``.
        path: the folder or the file.
        snapshots: those asked for, oldest first.
        cuts: number of blocks in front of each link; None where links are all that is known.
        quantizers: registered name by role.
        run: the run folder; None for a trace.
    """

    kind: str
    path: Path
    snapshots: tuple[Snapshot, ...]
    cuts: list[int] | str | None = None
    quantizers: dict[str, str] = field(default_factory=dict)
    run: RunFolder | None = None

    def cut(self, link: int) -> int | None:
        """Blocks in front of the cut of a link; None where nothing tells."""
        if isinstance(self.cuts, list):
            return self.cuts[link] if link < len(self.cuts) else None
        return link + 1 if self.cuts == "all" else None

    def label(self, link: int, role: str) -> str:
        """``cut05.act``, or ``link0.act`` where the cut is not known."""
        cut, short = self.cut(link), {"activation": "act", "gradient": "grad"}[role]
        return f"link{link}.{short}" if cut is None else f"cut{cut:02}.{short}"

    def target_bits(self, role: str) -> float | None:
        """The mean width that a role's senders aim at, as they said; None where none did."""
        reports = self.snapshots[-1].reports or {}
        found = [r.target_bits for (_, own), r in sorted(reports.items()) if own == role]
        return next((target for target in found if target is not None), None)

    def column(self, site: SiteWidths) -> str:
        """What a column of a site is, in the singular: ``channel``, ``rotated channel``."""
        for snapshot in reversed(self.snapshots):
            report = snapshot.report(site.link, site.role)
            if report is not None and report.column is not None:
                return report.column
        if site.axis == "tensor" or (self.run is None and not self._is_ours(site.role)):
            return "column"  # a trace does not say what a stranger's columns are
        return site.axis

    def _is_ours(self, role: str) -> bool:
        name = self.quantizers.get(role)
        offers = registry.offers(registry.QUANTIZERS)
        return any(offer.built_in and offer.name == name for offer in offers)


def open_source(text: str, checkpoint: str, over_time: bool) -> BitSource:
    """Read what was asked for.

    Args:
        text: a run (folder, name, start of its id) or a trace file, as typed.
        checkpoint: see `choose_snapshot`.
        over_time: every snapshot instead of one.

    Raises:
        InputError: there is no such thing, or it has no bit-widths.
    """
    if Path(text).is_file():
        return _trace_source(Path(text), checkpoint, over_time)
    run = find_run(text, _RUNS)
    if run is None:
        raise InputError(
            f"there is no run or trace '{text}'",
            hint="give the folder that `amaqctl train` named at its end, or a trace file",
            error_id="INPUT-RUN",
        )
    snapshots = read_history(run) if over_time else [choose_snapshot(run, checkpoint)]
    profile = load_profile(run.path / "profile.yaml").profile
    roles = {"activation": profile.quantizers.activation, "gradient": profile.quantizers.gradient}
    return BitSource(
        kind="run",
        path=run.path,
        snapshots=tuple(snapshots),
        cuts=profile.split.cuts,
        quantizers={role: choice.name for role, choice in roles.items()},
        run=run,
    )


def _trace_source(path: Path, checkpoint: str, over_time: bool) -> BitSource:
    """The widths that the messages of a trace carry; this needs torch, as reading messages does."""
    from amaqctl.trace.reader import Trace

    steps: dict[int, dict[tuple[int, str, str], Any]] = {}
    reports: dict[int, dict[tuple[int, str], SiteReport]] = {}
    quantizers: dict[str, str] = {}
    for message in Trace(path):
        codes, context = message.quantized.codes, message.context
        if not context.training or (codes is not None and not codes.allocation.num_columns):
            continue
        if codes is None:
            size = 8 * len(message.to_bytes()) / max(math.prod(message.quantized.shape), 1)
            said = reports.setdefault(context.step + 1, {})
            said[context.link, context.role] = SiteReport(size, has_codes=False)
            quantizers[context.role] = message.quantizer
            continue
        place = (context.link, context.role, codes.allocation.axis)
        # A run counts steps that are done; a message, those before it.
        steps.setdefault(context.step + 1, {})[place] = codes.allocation.widths_C.numpy()
        quantizers[context.role] = message.quantizer
    if not steps and not reports:
        raise InputError(
            "the trace has no bit allocation: its messages carry values without widths",
            where=str(path),
            hint="a raw trace is for `amaqctl compress-trace`; give a run",
            error_id="INPUT-BITS",
        )
    snapshots = [
        replace(
            sites_in_order(steps.get(step, {})),
            name=f"step-{step:06}",
            step=step,
            reports=reports.get(step, {}),
        )
        for step in sorted({*steps, *reports})
    ]
    if not over_time:
        snapshots = [_of_step(path, snapshots, checkpoint)]
    return BitSource("trace", path, tuple(snapshots), quantizers=quantizers)


def _of_step(path: Path, snapshots: list[Snapshot], which: str) -> Snapshot:
    if which in ("last", FINAL):
        return snapshots[-1]
    found = [s for s in snapshots if which.isdecimal() and s.step == int(which)]
    if not found:
        raise InputError(
            f"the trace has no bit-widths of '{which}'",
            where=str(path),
            hint=f"its steps: {', '.join(str(s.step) for s in snapshots)}",
            error_id="INPUT-CHECKPOINT",
        )
    return found[0]
