"""The run folder: who the run is, what it measured, where its checkpoints are.

``run.json`` is rewritten whole; ``metrics.jsonl`` and ``log.txt`` only grow, but for a torn last
line, which a resume cuts off. A folder is never reused: one that exists and is not empty is
refused. One process at a time writes it; the kernel gives the lock back when that process dies.
Nothing is written through a link inside the folder, which would be written elsewhere.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from amaqctl.engine.metrics import read_metrics
from amaqctl.engine.run_place import (
    cut_torn_line,
    end_of_lines,
    fill_new_folder,
    first_stranger,
    locked,
)
from amaqctl.errors import InputError, ResumeError
from amaqctl.storage import (
    explained,
    open_to_append,
    read_json,
    sweep,
    sync,
    write_json,
)

RUN_SCHEMA = "amaqctl.run/1"
DATA_FILES = ("task.options.train", "task.options.validation")
"""Paths to what the fingerprint of the data covers, whatever the files are called."""
_FOLDERS_OF_TRAINING = (".", "checkpoints", "bits", "quantizer")
_NAMES_OF_OLD_LEFTOVERS = (".tmp-*", ".adapter-*")  # version 0.1.0


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
        self.run: dict[str, Any] = _read_run(path)
        self._lock: int | None = None

    @classmethod
    def create(
        cls,
        name: str,
        root: Path,
        out: Path | None,
        profile_yaml: str,
        facts: dict[str, Any],
        environment: dict[str, Any] | None = None,
    ) -> RunFolder:
        """Make a new run folder; of several processes that make one folder, one succeeds.

        Args:
            name: first part of the run's name.
            root: folder in which it is made, unless ``out`` names the folder itself.
            profile_yaml: the resolved profile.
            facts: what else goes into ``run.json``.
            environment: what goes into ``environment.json``.

        Raises:
            InputError: ``out`` exists and is not empty.
            ResourceError: it cannot be written.
        """
        run_id = secrets.token_hex(2)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        path = out or root / f"{name}-{stamp}-{run_id}"
        run = {"schema": RUN_SCHEMA, "id": run_id, "name": name, "status": "created"}
        run |= {"started": utc_now(), "folder": str(path.absolute()), **facts}
        fill_new_folder(path, profile_yaml, environment or {}, run)
        return cls(path)

    def lock(self) -> None:
        """Keep other processes from writing here until `unlock`, or until this process ends.

        A second call does nothing. ``run`` is read again, as of now.

        Raises:
            ResumeError: another process is writing here, a link leads out of the folder, or
                ``log.txt`` is no file of a run.
        """
        if self._lock is not None:
            return
        lock = locked(self.path)
        if lock is False:
            raise ResumeError(
                f"process {_read_run(self.path).get('pid', 'of another command')} is writing here",
                where=str(self.path),
                hint="wait until it has ended, or stop it",
                error_id="RESUME-BUSY",
            )
        try:
            self._refuse_links()
            self.run = _read_run(self.path)
            if (log := self.path / "log.txt").is_file():
                end_of_lines(log)
        except BaseException:
            if lock:
                os.close(lock)
            raise
        if lock is None:
            self.log("the folder could not be locked: this file system knows no locks")
        self._lock = lock
        for name in _FOLDERS_OF_TRAINING:  # a run that was killed at its very end is never mended
            sweep(self.path / name)

    def unlock(self) -> None:
        """Let other processes write here."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def mend(self) -> None:
        """Clear away what a killed process left half written: files, folders and last lines.

        Only where training writes; an evaluation may be at work in its own folder.

        Raises:
            ResourceError: the folder cannot be written.
        """
        with explained(self.path):
            for folder in (self.path / name for name in _FOLDERS_OF_TRAINING):
                sweep(folder, _NAMES_OF_OLD_LEFTOVERS)
            for name in ("metrics.jsonl", "log.txt"):
                if (self.path / name).exists():
                    cut_torn_line(self.path / name)

    @property
    def is_of_parties(self) -> bool:
        """Whether other stages of this run lie at other parties."""
        return bool(self.run.get("session"))

    def refuse_of_parties(self, what: str) -> None:
        """Refuse what needs every stage of the model.

        Args:
            what: that is asked for, as the subject of a sentence.

        Raises:
            InputError: other stages lie at other parties.
        """
        if self.is_of_parties:
            raise InputError(
                f"{what} needs every stage, and others of this run lie at other parties",
                where=str(self.path),
                hint="bring the parts together with amaqctl join; the leader's metrics hold its "
                "evaluations",
                error_id="INPUT-PARTIES",
            )

    def sync_metrics(self) -> None:
        """Flush the metrics to disk, so that no checkpoint knows more than they do."""
        if (self.path / "metrics.jsonl").exists():
            sync(self.path / "metrics.jsonl")

    def update(self, **facts: Any) -> None:
        """Rewrite ``run.json`` with changed facts."""
        self.run.update(facts)
        write_json(self.path / "run.json", self.run)

    def note_max_steps(self, step: int, max_steps: int) -> None:
        """Set how many steps the run is to have from ``step`` on; `update` writes it down."""
        before = self.run.get("max_steps")
        if before not in (None, max_steps):
            change = {"step": step, "before": before, "now": max_steps}
            self.run["max_steps_changes"] = [*(self.run.get("max_steps_changes") or []), change]
        self.run["max_steps"] = max_steps

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
        """The records that hold; see `amaqctl.engine.metrics`.

        Raises:
            InputError: they cannot be read; the line is named.
        """
        return read_metrics(self.path / "metrics.jsonl")

    def quantizer_options(self) -> dict[str, dict[str, Any]]:
        """Options with their defaults by role, as a finished run keeps them; empty before.

        Raises:
            InputError: they cannot be read.
        """
        from amaqctl.engine.run_documents import OptionsDocument

        try:
            kept = read_json(self.path / "quantizer" / "options.json", OptionsDocument)
        except FileNotFoundError:
            return {}
        return {place.split(".")[1]: dict(entry["options"]) for place, entry in kept.items()}

    def _append(self, name: str, text: str) -> None:
        path = self.path / name
        with explained(path), open_to_append(path) as file:
            file.write(text)

    def _refuse_links(self) -> None:
        found = first_stranger(self.path)
        if found is not None:
            path, what, hint = found
            raise ResumeError(
                f"{what}; what is written here would be written elsewhere",
                where=str(path),
                hint=hint,
                error_id="RESUME-LINK",
            )


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
    if not text:  # every name begins with it
        raise InputError(
            "the name of the run is empty",
            hint="give the folder that `amaqctl train` named at its end",
            error_id="INPUT-RUN",
        )
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


def _read_run(path: Path) -> dict[str, Any]:
    from amaqctl.engine.run_documents import RunDocument  # slow, and `--help` comes by here

    try:
        run: dict[str, Any] = read_json(path / "run.json", RunDocument)
    except (FileNotFoundError, InputError) as error:
        why = error.message if isinstance(error, InputError) else "there is none"
        raise InputError(
            f"not a run folder: no readable run.json ({why})",
            where=str(path),
            hint="give the folder that `amaqctl train` named at its end",
            error_id="INPUT-RUN",
        ) from error
    return run


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
