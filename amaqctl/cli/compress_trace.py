"""`amaqctl compress-trace`: what quantizers cost and lose on recorded tensors, without a model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amaqctl import registry
from amaqctl.cli.console import render
from amaqctl.cli.console.early import checked_profile
from amaqctl.cli.console.session import Json, Session, Set, Traceback, command
from amaqctl.cli.quantizer_text import name_and_options
from amaqctl.engine.run_search import find_trace
from amaqctl.errors import UsageError
from amaqctl.occupied import refuse_trace
from amaqctl.units import mib

if TYPE_CHECKING:
    from amaqctl.trace.measure import Summary
    from amaqctl.trace.report import Report

# -q is short for --quantizer here, as docs/command-line.md says beside --quiet.
QuietLong = Annotated[bool, typer.Option("--quiet", help="Print the bare result only.")]

_SCHEMA = "amaqctl.compress-trace/1"
_DEFAULT_STEPS = 4
_DEFAULT_MAX_MIB = 2048


class RoleChoice(StrEnum):
    """Which directions to report."""

    activation = "activation"
    gradient = "gradient"
    both = "both"


Trace = Annotated[
    str | None, typer.Argument(metavar="TRACE|RUN", help="A trace, or a run that has one.")
]
Quantizers = Annotated[
    list[str] | None,
    typer.Option(
        "-q",
        "--quantizer",
        metavar="NAME[:KEY=VALUE,…]",
        help="A quantizer with options; repeatable. Without: the built-in ones at 4 bits.",
    ),
]
Role = Annotated[
    RoleChoice | None, typer.Option("--role", help="Directions to report. (default: both)")
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Check the bytes bit for bit; exit 8 if they differ.")
]
Export = Annotated[
    Path | None,
    typer.Option("--export", metavar="FILE", help="Write the result to a .csv, .json or .png."),
]
Record = Annotated[
    str | None,
    typer.Option("--record", metavar="PROFILE", help="Make a trace instead: train a profile."),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The trace to make.")]
Steps = Annotated[
    int | None,
    typer.Option("--steps", min=1, help=f"Steps to record. (default: {_DEFAULT_STEPS})"),
]
FirstStep = Annotated[
    int | None,
    typer.Option("--first-step", min=0, help="Train so many steps before. (default: 0)"),
]
MaxMib = Annotated[
    int | None,
    typer.Option("--max-mib", min=1, help=f"Refuse larger traces. (default: {_DEFAULT_MAX_MIB})"),
]


def compress_trace(
    trace: Trace = None,
    quantizer: Quantizers = None,
    role: Role = None,
    verify: Verify = False,
    export: Export = None,
    record: Record = None,
    out: Out = None,
    steps: Steps = None,
    first_step: FirstStep = None,
    max_mib: MaxMib = None,
    set_: Set = None,
    json: Json = False,
    quiet: QuietLong = False,
    traceback: Traceback = False,
) -> None:
    """Record the tensors that cross the cuts, or send recorded ones through quantizers.

    Every message is really encoded to bytes and decoded from them; bits count all bytes. The
    limit is the least error of a Gaussian model at the same bits (docs/traces.md).
    """
    with command(
        "amaqctl.compress-trace/1", json=json, quiet=quiet, traceback=traceback
    ) as session:
        replaying = {"-q": quantizer, "--role": role, "--verify": verify, "--export": export}
        recording = {
            "--out": out,
            "--steps": steps,
            "--first-step": first_step,
            "--max-mib": max_mib,
            "--set": set_,
        }
        if (trace is None) == (record is None):
            raise UsageError(
                "give a trace to replay, or --record PROFILE to make one",
                hint="amaqctl compress-trace --record quickstart --out first.trace",
            )
        if record is not None:
            _refuse(replaying, "replays a trace; it does not go with --record")
            if out is None:
                raise UsageError("--record needs --out, the trace to make")
            limit_mib = max_mib or _DEFAULT_MAX_MIB
            _record(session, record, set_ or [], out, first_step or 0, steps, limit_mib)
            return
        _refuse(recording, "goes with --record only")
        assert trace is not None
        _replay(session, trace, quantizer or [], role or RoleChoice.both, verify, export)


def _refuse(options: dict[str, Any], why: str) -> None:
    for name, value in options.items():
        if value not in (None, False):
            raise UsageError(f"{name} {why}")


def _record(
    session: Session,
    profile: str,
    overrides: list[str],
    out: Path,
    first_step: int,
    steps: int | None,
    limit_mib: int,
) -> None:
    checked_profile(profile, overrides)
    refuse_trace(out)
    from amaqctl import recording
    from amaqctl.engine.advice import advised

    session.note("loading …")
    num_steps = steps or _DEFAULT_STEPS
    prepared = recording.prepare(profile, overrides, first_step, num_steps, limit_mib * 2**20)
    session.note(
        f"{prepared.num_messages} messages of {num_steps} steps, "
        f"{mib(prepared.num_bytes)} ({prepared.num_bytes} bytes)"
    )
    total = prepared.header.total_steps
    recording.record(prepared, out, lambda step: session.note(f"step {step + 1}/{total}"))
    num_bytes = out.stat().st_size
    data = {
        "trace": str(out),
        "bytes": num_bytes,
        "num_messages": prepared.num_messages,
        "recorded": prepared.header.model_dump(mode="json"),
    }
    rows = [
        ("trace", str(out)),
        ("holds", f"{prepared.num_messages} messages of {num_steps} steps"),
        ("size", f"{mib(num_bytes)} ({num_bytes} bytes)"),
        ("next", advised("compress-trace", out)),
    ]
    session.result(data, render.facts(rows), str(out))


def _replay(
    session: Session,
    text: str,
    wanted: list[str],
    role: RoleChoice,
    verify: bool,
    export: Path | None,
) -> None:
    parsed = [(item, *name_and_options(item, "-q")) for item in wanted]
    for _, name, _ in parsed:  # before torch, which the rest needs
        registry.find(registry.QUANTIZERS, name)
    path = find_trace(text)
    from amaqctl.storage import write_file
    from amaqctl.trace import reader
    from amaqctl.trace.choice import choice_of, usual_choices
    from amaqctl.trace.export import exporter
    from amaqctl.trace.report import ROLES, replay_trace

    export_bytes = exporter(export.suffix) if export else None
    choices = [choice_of(*item) for item in parsed] or usual_choices()
    session.note(f"replaying {path} through {len(choices)} quantizers …")
    roles = ROLES if role == RoleChoice.both else tuple(r for r in ROLES if r == role.value)
    report = replay_trace(reader.Trace(path), choices, roles, verify)
    data = report.document()
    data["verified"] = verify
    if export is not None and export_bytes is not None:
        content = export_bytes(report)
        write_file(export, lambda temporary: _write(temporary, content))
        data["exported"] = str(export)
    bare = "\n".join(
        f"{r.quantizer}\t{r.role}\t{r.bits:.4f}" for r in report.rows if r.part == "all"
    )
    table = _text(report, data, {c.label: c.origin for c in choices if c.origin})
    if report.failures:
        session.failed_check(data, table, bare, report.failures[0][1])
    session.result(data, table, bare)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _text(report: Report, data: dict[str, Any], strangers: dict[str, str]) -> str:
    header = report.trace.header
    steps = f"{header.num_steps} steps" if header.num_steps > 1 else "1 step"
    lines = [
        f"{report.trace.path.name}  {header.profile}  {header.model} {header.dtype}  {steps} from "
        f"{header.first_step}",
        f"{report.num_messages} messages, {mib(2 * report.num_values)} at 16 bits",
    ]
    for role in report.variances:
        rows = [_cells(row, strangers) for row in report.rows if row.role == role]
        if rows:
            lines += ["", role if len(report.variances) > 1 else f"{role} only"]
            lines.append(render.table(_HEADER, rows))
    lines.append("")
    if not report.has_revisits:
        lines.append("no sample comes twice: what a memory of the samples saves is not seen here")
    lines += [f"no {role} through {label}: {why}" for label, role, why in report.skipped]
    lines += [f"{label} failed: {error.message}" for label, error in report.failures]
    lines += [f"* {label}: third party, {origin}" for label, origin in strangers.items()]
    if data["verified"]:
        lines.append("verified: what was decoded from the bytes is what went in, bit for bit")
    if "exported" in data:
        lines.append(f"saved {data['exported']}")
    return "\n".join(lines).rstrip()


_HEADER = ["quantizer", "bits", "ratio", "error", "cosine", "dB"]
_HEADER += ["codes", "widths", "scales", "header", "enc ms", "dec ms"]


def _cells(row: Summary, strangers: dict[str, str]) -> list[str]:
    name = row.quantizer + (" *" if row.quantizer in strangers else "")
    above = row.decibels_above_limit
    return [
        name if row.part == "all" else f"  {row.part} message",
        f"{row.bits:.2f}",
        f"{row.ratio:.1f}x",
        f"{row.relative_error:.4f}",
        "-" if row.cosine is None else f"{row.cosine:.4f}",
        "-" if above is None else f"{above:.1f}",
        *(
            f"{100 * part / row.bytes:.1f}%"
            for part in (row.codes_bytes, row.widths_bytes, row.scales_bytes, row.header_bytes)
        ),
        f"{row.encode_ms:.1f}",
        f"{row.decode_ms:.1f}",
    ]
