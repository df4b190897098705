"""The run folder: who the run is, what it measured, where its checkpoints are.

``run.json`` is rewritten whole; ``metrics.jsonl`` and ``log.txt`` only grow. A folder is never
reused: one that exists and is not empty is refused.
"""

from __future__ import annotations

import json
import math
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from amaqctl.engine.files import disk_error, write_json, write_text
from amaqctl.errors import InputError

RUN_SCHEMA = "amaqctl.run/1"


def utc_now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class RunFolder:
    """An existing run folder.

    Args:
        path: the folder.

    Raises:
        InputError: there is no readable ``run.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.run: dict[str, Any] = json.loads((path / "run.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                "not a run folder: no readable run.json",
                where=str(path),
                hint="give the folder that `amaqctl train` named at its end",
                error_id="INPUT-RUN",
            ) from error

    @classmethod
    def create(
        cls, name: str, root: Path, out: Path | None, profile_yaml: str, facts: dict[str, Any]
    ) -> RunFolder:
        """Make a new run folder.

        Args:
            name: first part of the run's name.
            root: folder in which it is made, unless ``out`` names the folder itself.
            profile_yaml: the resolved profile.
            facts: what else goes into ``run.json``.

        Raises:
            InputError: ``out`` exists and is not empty.
            ResourceError: it cannot be written.
        """
        run_id = secrets.token_hex(2)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        path = out or root / f"{name}-{stamp}-{run_id}"
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(
                "exists already; a run is never overwritten",
                where=str(path),
                hint="choose another --out, or leave it away",
                error_id="INPUT-RUN-EXISTS",
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, path) from error
        write_text(path / "profile.yaml", profile_yaml)
        run = {"schema": RUN_SCHEMA, "id": run_id, "name": name, "status": "created"}
        write_json(path / "run.json", {**run, "started": utc_now(), **facts})
        return cls(path)

    def update(self, **facts: Any) -> None:
        """Rewrite ``run.json`` with changed facts."""
        self.run.update(facts)
        write_json(self.path / "run.json", self.run)

    def record(self, kind: str, step: int, **values: Any) -> dict[str, Any]:
        """Append one object to ``metrics.jsonl``; what is not finite becomes null."""
        entry = {"kind": kind, "step": step, "time": utc_now(), **values}
        entry = {key: _finite(value) for key, value in entry.items()}
        self._append("metrics.jsonl", json.dumps(entry, allow_nan=False) + "\n")
        return entry

    def log(self, line: str) -> None:
        """Append one line to ``log.txt``."""
        self._append("log.txt", f"{utc_now()} {line}\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All records; of a torn last line nothing."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        records = []
        for line in lines:
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def _append(self, name: str, text: str) -> None:
        path = self.path / name
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise disk_error(error, path) from error


def find_run(text: str, root: Path) -> RunFolder | None:
    """A run by folder, by the folder's name, or by a unique start of its name or id.

    Args:
        text: as typed.
        root: where run folders are.

    Returns:
        None when nothing fits.

    Raises:
        InputError: several runs fit.
    """
    if (Path(text) / "run.json").exists():
        return RunFolder(Path(text))
    runs = [path.parent for path in sorted(root.glob("*/run.json"))]
    fitting = [p for p in runs if p.name == text] or [
        p for p in runs if p.name.startswith(text) or p.name.rsplit("-", 1)[-1].startswith(text)
    ]
    if len(fitting) > 1:
        raise InputError(
            f"'{text}' fits {len(fitting)} runs: {', '.join(p.name for p in fitting[:5])}",
            hint="type more of the name",
            error_id="INPUT-RUN",
        )
    return RunFolder(fitting[0]) if fitting else None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
