"""Where a bit map comes from: a run folder or a trace, with what is known of its sites."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from amaqctl.engine.bits_history import (
    FINAL,
    Snapshot,
    choose_snapshot,
    read_history,
    sites_in_order,
)
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
        options: resolved options by role, as far as they are known.
        run: the run folder; None for a trace.
    """

    kind: str
    path: Path
    snapshots: tuple[Snapshot, ...]
    cuts: list[int] | str | None = None
    quantizers: dict[str, str] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
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
        """The mean width that a role's quantizer is to reach, where it has such an option."""
        target = self.options.get(role, {}).get("target_bits")
        return float(target) if isinstance(target, int | float) else None


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
    options = {role: dict(choice.options) for role, choice in roles.items()}
    return BitSource(
        kind="run",
        path=run.path,
        snapshots=tuple(snapshots),
        cuts=profile.split.cuts,
        quantizers={role: choice.name for role, choice in roles.items()},
        options=options | run.quantizer_options(),
        run=run,
    )


def _trace_source(path: Path, checkpoint: str, over_time: bool) -> BitSource:
    """The widths that the messages of a trace carry; this needs torch, as reading messages does."""
    from amaqctl.trace.reader import Trace

    steps: dict[int, dict[tuple[int, str, str], Any]] = {}
    quantizers: dict[str, str] = {}
    for message in Trace(path):
        codes, context = message.quantized.codes, message.context
        if codes is None or not codes.allocation.num_columns or not context.training:
            continue
        place = (context.link, context.role, codes.allocation.axis)
        # A run counts steps that are done; a message, those before it.
        steps.setdefault(context.step + 1, {})[place] = codes.allocation.widths_C.numpy()
        quantizers[context.role] = message.quantizer
    if not steps:
        raise InputError(
            "the trace has no bit allocation: its messages carry values without widths",
            where=str(path),
            hint="a raw trace is for `amaqctl compress-trace`; give a run",
            error_id="INPUT-BITS",
        )
    snapshots = [
        replace(sites_in_order(sites), name=f"step-{step:06}", step=step)
        for step, sites in sorted(steps.items())
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
