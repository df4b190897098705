"""The run folder: who the run is, what it measured, where its checkpoints are.

``run.json`` is rewritten whole; ``metrics.jsonl`` and ``log.txt`` only grow, but for a torn last
line, which a resume cuts off. A folder is never reused: one that exists and is not empty is
refused. One process at a time writes it; the kernel gives the lock back when that process dies.
Nothing is written through a link inside the folder, which would be written elsewhere.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from amaqctl.engine.metrics import read_metrics
from amaqctl.engine.run_links import first_link
from amaqctl.errors import InputError, ResumeError
from amaqctl.storage import (
    AlreadyThere,
    explained,
    open_to_append,
    read_json,
    sweep,
    sync,
    write_json,
    write_text,
)

RUN_SCHEMA = "amaqctl.run/1"
_UNFINISHED = ".tmp-created"
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
        cls, name: str, root: Path, out: Path | None, profile_yaml: str, facts: dict[str, Any]
    ) -> RunFolder:
        """Make a new run folder; of several processes that make one folder, one succeeds.

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
        if path.exists() and not _is_free(path):
            raise _occupied(path)
        run = {"schema": RUN_SCHEMA, "id": run_id, "name": name, "status": "created"}
        with explained(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = _locked(path)
            try:
                if lock is False or not _is_free(path):
                    raise _occupied(path)
                (path / _UNFINISHED).touch()  # who dies before run.json leaves a free folder
                write_text(path / "profile.yaml", profile_yaml)
                document = {**run, "started": utc_now(), **facts}
                write_json(path / "run.json", document, replace=False)
                (path / _UNFINISHED).unlink(missing_ok=True)
            except AlreadyThere:
                raise _occupied(path) from None
            finally:
                if lock:
                    os.close(lock)
        return cls(path)

    def lock(self) -> None:
        """Keep other processes from writing here until `unlock`, or until this process ends.

        A second call does nothing. ``run`` is read again, as of now.

        Raises:
            ResumeError: another process is writing here, or a link leads out of the folder.
        """
        if self._lock is not None:
            return
        lock = _locked(self.path)
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
        except BaseException:
            if lock:
                os.close(lock)
            raise
        if lock is None:
            self.log("the folder could not be locked: this file system knows no locks")
        self._lock = lock

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
                    _cut_torn_line(self.path / name)

    def sync_metrics(self) -> None:
        """Flush the metrics to disk, so that no checkpoint knows more than they do."""
        if (self.path / "metrics.jsonl").exists():
            sync(self.path / "metrics.jsonl")

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
        """The records that hold; see `amaqctl.engine.metrics`.

        Raises:
            InputError: they cannot be read; the line is named.
        """
        return read_metrics(self.path / "metrics.jsonl")

    def _append(self, name: str, text: str) -> None:
        path = self.path / name
        with explained(path), open_to_append(path) as file:
            file.write(text)

    def _refuse_links(self) -> None:
        link = first_link(self.path)
        if link is not None:
            raise ResumeError(
                "a link; what is written here would be written elsewhere",
                where=str(link),
                hint="put a copy of what it leads to in its place",
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


def _locked(path: Path) -> int | bool | None:
    """The handle that holds the lock of a folder; False: another has it; None: there are none."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    except OSError:  # some network file systems know no locks
        os.close(handle)
        return None
    return handle


def _is_free(path: Path) -> bool:
    """Empty, or left by a process that died while it made a run folder of it."""
    if not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir()}
    return not names or (_UNFINISHED in names and "run.json" not in names)


def _occupied(path: Path) -> InputError:
    return InputError(
        "exists already; a run is never overwritten",
        where=str(path),
        hint="choose another --out, or leave it away",
        error_id="INPUT-RUN-EXISTS",
    )


def _cut_torn_line(path: Path) -> None:
    """Cut off what follows the last line end; a killed process wrote only a part of it."""
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        kept = end
        while kept:
            start = max(0, kept - 2**16)
            file.seek(start)
            found = file.read(kept - start).rfind(b"\n")
            kept = start + found + 1
            if found >= 0:
                break
        if kept < end:
            file.truncate(kept)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
