"""`amaqctl compare`: finished runs side by side, with the bytes of the whole run in front.

The whole run, because a method that begins at 8 bits, or sends its first messages in full, pays
for that there and nowhere else.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from amaqctl.cli.console import render
from amaqctl.cli.console.session import Json, Quiet, Traceback, command
from amaqctl.comparison import ROLES, Comparison, Group, Spread, compare_runs
from amaqctl.errors import UsageError
from amaqctl.units import duration

_RUNS = Path("runs")
_SCORES = ("accuracy", "exact_match")
_LONGEST_LABEL = 28  # of a first column that leaves room for the numbers at 60 columns

_FEW_BYTES = 10 * 2**20  # below this two digits after the point tell nothing apart


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="Finished runs.")],
    reference: Annotated[
        str | None,
        typer.Option("--ref", metavar="RUN", help="Differences are to this one, not the first."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Show real bytes, bits a value, losses and scores of runs that differ in quantizers only.

    Runs that differ in data, steps, model or any other setting are refused, and all differences
    named. Several seeds of the same quantizers are folded into mean ± standard deviation; all
    quantizers must then have been run with the same seeds.
    """
    with command("amaqctl.compare/1", json=json, quiet=quiet, traceback=traceback) as session:
        if len(runs) + (reference is not None) < 2:
            raise UsageError("give two runs or more", hint="amaqctl runs lists them")
        found = compare_runs(runs, reference, _RUNS)
        seeds = found.reference.seeds
        session.note(
            f"same data {found.settings['data.fingerprint'][:12]}, "
            f"model {found.settings['model.id']}, {found.settings['steps']} steps, "
            f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        )
        bare = "\n".join(f"{g.label}\t{g.spread('wire_bytes').mean:.0f}" for g in found.groups)
        session.result(_document(found), _text(found), bare)


def _document(found: Comparison) -> dict[str, Any]:
    groups = []
    for group in found.groups:
        first = group.runs[0]
        entry: dict[str, Any] = {"quantizers": group.label, **first.quantizers}
        entry |= {"num_runs": len(group.runs), "runs": [str(run.path) for run in group.runs]}
        entry["metrics"] = {key: asdict(group.spread(key)) for key in found.keys}
        entry["to_reference"] = {
            key: asdict(group.difference(found.reference, key)) for key in found.keys
        }
        groups.append(entry)
    return {
        "reference": found.reference.label,
        "seeds": list(found.reference.seeds),
        "same": found.settings,
        "groups": groups,
    }


def _text(found: Comparison) -> str:
    """The table; on a terminal long labels become letters, explained below it."""
    scores = [name for name in _SCORES if f"{name}_after" in found.keys]
    header = ["quantizers", "n", "MiB sent", "loss", "to ref"]
    header += [*(name.replace("_", " ") for name in scores), "smaller"]
    header += [f"{short} bits" for short in ("act", "grad")]
    header += [f"{short} at end" for short in ("act", "grad")]
    header += ["time", "runs"]
    labels = [group.label for group in found.groups]
    is_terminal = bool(sys.__stdout__ and sys.__stdout__.isatty())
    legend: list[str] = []
    if is_terminal and max(map(len, labels)) > _LONGEST_LABEL:
        width = max(20, shutil.get_terminal_size().columns)
        letters = [_letters(i) for i in range(len(labels))]
        for letter, label in zip(letters, labels, strict=True):
            legend += textwrap.wrap(
                f"{letter}  {label}",
                width,
                initial_indent="",
                subsequent_indent="   ",
            )
        labels = letters
    rows = [
        [label, *_cells(found, group, scores)]
        for label, group in zip(labels, found.groups, strict=True)
    ]
    table = render.table(header, rows, is_terminal)
    return "\n".join([table, *(["", *legend] if legend else [])])


def _cells(found: Comparison, group: Group, scores: list[str]) -> list[str]:
    difference = "ref"
    if group is not found.reference:
        difference = _shown(group.difference(found.reference, "loss_after"), "+.4f")
    seconds = group.spread("seconds").mean if "seconds" in found.keys else None
    wire = group.spread("wire_bytes")
    sent = Spread(wire.mean / 2**20, None if wire.sd is None else wire.sd / 2**20)
    least = min(g.spread("wire_bytes").mean for g in found.groups)
    form = ".2f" if least >= _FEW_BYTES else ".4f"
    cells = [str(len(group.runs)), _shown(sent, form), _shown(group.spread("loss_after"), ".4f")]
    cells += [difference, *(_shown(group.spread(f"{name}_after"), ".3f") for name in scores)]
    cells.append(f"{2 * group.spread('wire_values').mean / wire.mean:.2f}x")
    for when in ("over_run", "at_end"):
        cells += [f"{group.spread(f'{role}_bits_{when}').mean:.2f}" for role in ROLES]
    cells.append("-" if seconds is None else duration(seconds))
    return [*cells, ",".join(run.title for run in group.runs)]


def _shown(spread: Spread, form: str) -> str:
    mean = f"{spread.mean:{form}}"
    return mean if spread.sd is None else f"{mean} ± {spread.sd:{form.lstrip('+')}}"


def _letters(index: int) -> str:
    """a to z, then aa, ab, …"""
    head, tail = divmod(index, 26)
    return (_letters(head - 1) if head else "") + chr(ord("a") + tail)
