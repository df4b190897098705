"""Run a grid of `grids.py`, cell by cell; cells with a record are skipped.

    python benchmarks/accuracy/run.py --data DIR --work DIR --grid small --jobs 2

Every cell is `amaqctl train`, then `amaqctl eval --boundary both`, in processes of their own. Stop
it at any time: what is done is done, and the next start goes on. Cores are divided among the jobs:
two runs of one thread each did 1.7 times the work of one run of two threads.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cell
from grids import GRIDS
from records import KEPT, Record, append, failure_of, load, missing, record_of

DIVERGED = 6


class CellError(Exception):
    """A cell ended otherwise than by a result or a divergence."""


_CHILDREN: set[subprocess.Popen[str]] = set()


def amaqctl(arguments: list[str], log: Path, threads: int) -> tuple[int, dict[str, Any]]:
    """Run one command; returns its exit code and its JSON document."""
    command = [sys.executable, "-m", "amaqctl.cli.main", *arguments, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (
        log.open("a") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as child,
    ):
        _CHILDREN.add(child)
        stdout, _ = child.communicate()
        _CHILDREN.discard(child)
    if child.returncode not in (0, DIVERGED):
        raise CellError(f"exit code {child.returncode}, see {log}")
    try:
        return child.returncode, json.loads(stdout)
    except json.JSONDecodeError as error:
        raise CellError(f"no result came, see {log}") from error


def run_cell(cell: Cell, work: Path, threads: int) -> Record:
    """Train a cell and score it with the quantizers in the path and without."""
    made_by: dict[str, Any] = {**provenance(), "threads": threads}
    prepared, folder, log = work / "data", work / "runs" / cell.key, work / f"{cell.key}.log"
    shutil.rmtree(folder, ignore_errors=True)  # a cell that was cut short
    training = ["train", "quickstart", "--out", str(folder), *_set(cell.changes(prepared))]
    code, trained = amaqctl(training, log, threads)
    if card := _card(folder):
        made_by["card"] = card
    if code == DIVERGED:  # a result, and it stays in the table
        return failure_of(cell, made_by, trained)
    scoring = ["eval", str(folder), "--boundary", "both", "--limit", str(cell.task.num_test)]
    code, scored = amaqctl([*scoring, *_set(cell.scoring(prepared))], log, threads)
    if code == DIVERGED:
        return failure_of(cell, made_by, scored)
    return record_of(cell, made_by, trained, scored, _widths(folder))


def _set(changes: dict[str, Any]) -> list[str]:
    return [word for k, v in changes.items() for word in ("--set", f"{k}={json.dumps(v)}")]


def _card(run: Path) -> str | None:
    """The GPU that a run was made on; None for none."""
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    card: str | None = environment["cuda"]
    return card


def _widths(run: Path) -> dict[str, list[int]]:
    """How many columns of each activation message had each width at the end."""
    with np.load(run / "bits" / "final.npz", allow_pickle=False) as archive:
        return {
            name: np.bincount(archive[name], minlength=9).tolist()
            for name in archive.files
            if ".activation." in name and archive[name].dtype == np.uint8  # beside reports
        }


def provenance() -> dict[str, Any]:
    """What a record says of its making."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    changed = subprocess.run(
        [
            *git,
            "status",
            "--porcelain",
            "--",
            ":/amaqctl",
            ":/profiles",
            ":/benchmarks/accuracy/*.py",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    packages = {name: version(name) for name in ("torch", "transformers", "peft")}
    return {
        "commit": commit.stdout.strip()[:12] + ("+changes" if changed.stdout.strip() else ""),
        "packages": packages,
        "machine": platform.machine(),
    }


def main() -> int:
    """Run what is missing, with the time left."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs and logs")
    parser.add_argument("--records", type=Path, default=KEPT, help="file of results")
    parser.add_argument("--grid", choices=sorted(GRIDS), default="small")
    parser.add_argument("--methods", nargs="+", help="only the cells of these methods")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cells at a time")
    arguments = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    chosen = arguments.methods
    cells = [c for c in GRIDS[arguments.grid] if not chosen or c.method.name in chosen]
    todo = missing(cells, load(arguments.records))
    print(f"{len(cells)} cells, {len(todo)} to do", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments.work.mkdir(parents=True, exist_ok=True)
    lock = (arguments.work / "lock").open("w")  # held until the end
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"{arguments.work}: another run.py works here; give each a --work of its own")
    for task in {cell.task.name: cell.task for cell in todo}.values():
        task.prepare(arguments.data, arguments.work / "data")
    started, num_failed = time.monotonic(), 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        running: dict[Future[Record], Cell] = {
            pool.submit(run_cell, cell, arguments.work, threads): cell for cell in todo
        }
        try:
            for number, future in enumerate(as_completed(running), 1):
                cell = running[future]
                try:
                    append(arguments.records, future.result())
                    said = cell.key
                except CellError as error:
                    num_failed += 1
                    said = f"{cell.key}: {error}"
                spent = time.monotonic() - started
                left = spent / number * (len(todo) - number) / 60
                print(f"{number}/{len(todo)} {said}; about {left:.0f} min left", flush=True)
        except BaseException:  # Ctrl-C, SIGTERM, or no more room for records
            pool.shutdown(wait=False, cancel_futures=True)
            for child in list(_CHILDREN):  # else they would train on into folders of the next start
                child.terminate()
            raise
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
