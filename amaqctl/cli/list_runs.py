"""`amaqctl runs`: what is in the runs folder, and one run in full.

A run that says it is running but whose process is gone is shown as ``lost``: nobody was left to
write down how it ended.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from amaqctl.cli.console import render
from amaqctl.cli.console.session import Json, Quiet, Session, Traceback, command
from amaqctl.engine.advice import advised
from amaqctl.engine.run_folder import RunFolder, find_run
from amaqctl.errors import AmaqError, InputError
from amaqctl.units import mib

_ALIVE = ("created", "running")
_CLOCK_SECONDS = 5  # between the kernel's clock and the file system's


def list_runs(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Show this one in full.")] = None,
    root: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="The folder that holds the runs.")
    ] = Path("runs"),
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """List the runs, newest first, or show one in full.

    Loss is that of the newest evaluation. MiB are those of all steps so far, both directions.
    """
    with command("amaqctl.runs/1", json=json, quiet=quiet, traceback=traceback) as session:
        if run is not None:
            _show_one(session, run, root)
        else:
            _show_all(session, root)


def _show_all(session: Session, root: Path) -> None:
    if not root.is_dir() and root != Path("runs"):
        raise InputError(
            "there is no such folder",
            where=str(root),
            hint="--root names the folder that holds the run folders",
            error_id="INPUT-RUN",
        )
    found = []
    for path in sorted(root.glob("*/run.json")):
        try:
            found.append(_summary(RunFolder(path.parent)))
        except AmaqError as error:  # one that is damaged must not hide the others
            session.warn(str(error))
    found.sort(key=lambda entry: (entry["started"] or "", entry["run"]), reverse=True)
    if not found:
        way = "; amaqctl train quickstart makes one" if root == Path("runs") else ""
        session.note(f"there is no run in {root}{way}")
    header = ["run", "status", "steps", "loss", "MiB sent", "age"]
    rows = [_cells(entry) for entry in found]
    paths = "\n".join(entry["run"] for entry in found)
    session.result({"runs": found}, render.table(header, rows), paths)


def _cells(entry: dict[str, Any]) -> list[str]:
    steps = "-" if entry["max_steps"] is None else f"{entry['steps']}/{entry['max_steps']}"
    loss = "-" if entry["loss"] is None else f"{entry['loss']:.4f}"
    age = "-" if entry["age_seconds"] is None else age_text(entry["age_seconds"])
    sent = f"{entry['wire_bytes'] / 2**20:.2f}"
    return [Path(entry["run"]).name, entry["status"], steps, loss, sent, age]


def _summary(run: RunFolder) -> dict[str, Any]:
    """What a row shows, of a finished run from its result, otherwise from its records so far."""
    started = run.run.get("started")
    result = _result(run)
    at_end = {
        "steps": result.get("steps"),
        "max_steps": result.get("steps"),
        "loss": result.get("loss_after"),
        "wire_bytes": result.get("wire_bytes", 0),
    }
    return {
        "run": str(run.path),
        "id": run.run.get("id"),
        "status": status_of(run),
        **(at_end if result else _so_far(run)),
        "started": started,
        "age_seconds": _age_seconds(started),
    }


def _result(run: RunFolder) -> dict[str, Any]:
    """Numbers at the end; empty for a run that goes on, even if it was at an end before."""
    found = run.run.get("result") if run.run.get("status") == "done" else None
    return found if isinstance(found, dict) and "steps" in found else {}


def _so_far(run: RunFolder) -> dict[str, Any]:
    records = run.metrics()
    trained = [r for r in records if r["kind"] == "train"]
    evaluated = [r.get("loss") for r in records if r["kind"] == "eval"]
    return {
        "steps": trained[-1]["step"] if trained else 0,
        "max_steps": _max_steps(run),
        "loss": evaluated[-1] if evaluated else None,
        "wire_bytes": sum(r.get("wire/total_bytes", 0) for r in trained),
    }


def status_of(run: RunFolder) -> str:
    """The status that ``run.json`` holds, or ``lost`` where its process is gone.

    A run that noted no process is believed.
    """
    status, process = str(run.run.get("status", "unknown")), run.run.get("pid")
    if status in _ALIVE and isinstance(process, int) and not _is_alive(process, run.path):
        return "lost"
    return status


def _is_alive(process: int, path: Path) -> bool:
    """Whether the process exists and is not a younger one that got the same number."""
    import psutil

    try:
        found = psutil.Process(process)
        if found.status() == psutil.STATUS_ZOMBIE:
            return False
        # It wrote its number into run.json, so it is older than that file.
        return bool(found.create_time() <= (path / "run.json").stat().st_mtime + _CLOCK_SECONDS)
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False
    except psutil.AccessDenied:
        return True


def _max_steps(run: RunFolder) -> int | None:
    if isinstance(run.run.get("max_steps"), int):
        return int(run.run["max_steps"])
    from amaqctl.profile import load_profile

    try:
        return load_profile(run.path / "profile.yaml").profile.train.max_steps
    except AmaqError:
        return None  # a list must not end at one damaged run; `runs RUN` names the fault


def _age_seconds(started: Any) -> float | None:
    try:
        then = datetime.strptime(str(started), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    return max(0.0, (datetime.now(UTC) - then).total_seconds())


def age_text(seconds: float) -> str:
    """The largest whole unit: ``12 s``, ``5 min``, ``3 h``, ``2 d``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def _show_one(session: Session, text: str, root: Path) -> None:
    from amaqctl.profile import load_profile

    run = find_run(text, root)
    if run is None:
        raise InputError(
            f"there is no run '{text}'", hint="amaqctl runs lists them", error_id="INPUT-RUN"
        )
    profile = load_profile(run.path / "profile.yaml").profile
    roles = {"activation": profile.quantizers.activation, "gradient": profile.quantizers.gradient}
    data: dict[str, Any] = {
        **_summary(run),
        "model": profile.model.id,
        "cuts": profile.split.cuts,
        "seed": profile.train.seed,
        "quantizers": {role: choice.model_dump() for role, choice in roles.items()},
        # Whole by its marker; `eval`, `export` and `--resume` check the hashes.
        "checkpoints": _names(run.path / "checkpoints", "step-*/COMPLETE", is_inside=True),
        "evaluations": _names(run.path / "eval", "*.json"),
        "traces": _names(run.path / "traces", "*.trace"),
        "adapter": (run.path / "adapter" / "adapter_model.safetensors").exists(),
        "result": _result(run) or None,
        "details": run.run,
    }
    session.result(data, _full_text(data), data["run"])


def _names(folder: Path, pattern: str, is_inside: bool = False) -> list[str]:
    return [(path.parent if is_inside else path).name for path in sorted(folder.glob(pattern))]


def _full_text(data: dict[str, Any]) -> str:
    details, result = data["details"], data["result"] or {}
    status = data["status"]
    if data["age_seconds"] is not None:
        status += f", started {age_text(data['age_seconds'])} ago ({data['started']})"
    loss = "-" if data["loss"] is None else f"{data['loss']:.4f}"
    if "loss_before" in result:
        loss = f"{result['loss_before']:.4f} before, {loss} after"
    rows = [
        ("run", data["run"]),
        ("status", status),
        ("steps", _steps_text(data)),
        ("model", f"{data['model']}, cuts {data['cuts']}, seed {data['seed']}"),
        ("data", _data_text(details.get("data") or {})),
        *((role, _choice_text(choice)) for role, choice in data["quantizers"].items()),
        ("loss", loss),
        *((name, f"{result[f'{name}_after']:.4f}") for name in _scores(result)),
        *((f"{role} bits", _bits_text(role, result)) for role in data["quantizers"] if result),
        ("sent", mib(data["wire_bytes"])),
        ("checkpoints", ", ".join(data["checkpoints"]) or "none"),
        ("adapter", f"{data['run']}/adapter" if data["adapter"] else "not written yet"),
        ("evaluations", str(len(data["evaluations"]))),
        ("traces", ", ".join(data["traces"]) or "none"),
    ]
    if status.startswith(("lost", "interrupted", "failed")):
        rows.append(("next", advised("train", "--resume", Path(data["run"]))))
    return render.facts(rows)


def _steps_text(data: dict[str, Any]) -> str:
    changes = data["details"].get("max_steps_changes") or []
    before = "".join(f", {c['before']} until step {c['step']}" for c in changes)
    return f"{data['steps']} of {data['max_steps']}{before}"


def _scores(result: dict[str, Any]) -> list[str]:
    return [name for name in ("accuracy", "exact_match") if f"{name}_after" in result]


def _data_text(data: dict[str, Any]) -> str:
    if not data:
        return "-"
    sizes = f"{data.get('num_train', '?')} train, {data.get('num_validation', '?')} validation"
    return f"{str(data.get('fingerprint', '?'))[:12]}, {sizes}"


def _choice_text(choice: dict[str, Any]) -> str:
    options = ", ".join(f"{key}={value}" for key, value in choice["options"].items())
    return f"{choice['name']} {options}".strip()


def _bits_text(role: str, result: dict[str, Any]) -> str:
    over, end = (result.get(f"{role}_bits_{when}") for when in ("over_run", "at_end"))
    return "-" if over is None or end is None else f"{over:.2f} over the run, {end:.2f} at the end"
