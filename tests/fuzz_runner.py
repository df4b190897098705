"""Runs the real command line on hostile input, many times, each in a process of its own.

torch is imported once; a case is a fork that goes into a fresh folder, writes the case's files
and calls the program's own ``main``. A case fails when the program ends in exit code 1 or by a
signal, shows a traceback, takes longer than ``SECONDS``, or grows by more than ``MEBIBYTES`` of
resident memory. A module of cases is a function ``cases(seed)`` that yields them without end and
a last line ``sys.exit(main(cases, __doc__))``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

SECONDS = 20.0
MEBIBYTES = 400
_KILL_MEBIBYTES = 3000
"""A case that has grown so far is ended, for the machine's sake."""

_OUR_BUG = (b"Traceback (most recent call last)", b"internal error", b"a bug in amaqctl")


@dataclass(frozen=True)
class Case:
    """One call of the program.

    Attributes:
        name: what was done to which input, for the report.
        arguments: of ``amaqctl``.
        files: path below the case's folder to content; folders are made.
        prepare: further set-up, called in the case's folder before the program.
    """

    name: str
    arguments: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    prepare: Callable[[], None] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        exit_code: of the program; -N where signal N ended it.
        seconds: wall clock.
        grown_mebibytes: resident memory at its peak, less what the process began with.
        output: of stdout and stderr together.
    """

    exit_code: int
    seconds: float
    grown_mebibytes: float
    output: bytes

    def fault(self) -> str | None:
        """Why the case fails; None where it passes."""
        if self.seconds > SECONDS:
            return f"hang: {self.seconds:.0f} s"
        if self.grown_mebibytes > MEBIBYTES:
            return f"memory: {self.grown_mebibytes:.0f} MiB"
        if self.exit_code == 1 or self.exit_code < 0:
            return f"exit code {self.exit_code}"
        if any(words in self.output for words in _OUR_BUG):
            return "a traceback, or a bug of ours"
        return None


def run_case(case: Case) -> Outcome:
    """Run ``case`` in a fork of this process and in a folder that is removed afterwards."""
    folder = tempfile.mkdtemp(prefix="amaqctl-fuzz-")
    descriptor, log = tempfile.mkstemp(prefix="amaqctl-fuzz-")
    os.close(descriptor)
    try:
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _be_the_program(case, folder, log)
        before = _resident_mebibytes(child)  # less than ours: a fork leaves file pages behind
        status, peak = _watch(child, before, started)
        seconds = time.monotonic() - started
        output = Path(log).read_bytes()[-20_000:]
        return Outcome(os.waitstatus_to_exitcode(status), seconds, peak - before, output)
    finally:
        os.unlink(log)
        shutil.rmtree(folder, ignore_errors=True)


def _be_the_program(case: Case, folder: str, log: str) -> None:
    """Never returns: writes the case's files and leaves with the program's exit code."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        for path, content in case.files.items():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(content)
        if case.prepare is not None:
            case.prepare()
        output = os.open(log, os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # pytest puts its own in their place.
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
        sys.argv = ["amaqctl", *case.arguments]
        from amaqctl.cli.start import main as program

        program()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        os._exit(code)


def _watch(child: int, before: float, started: float) -> tuple[int, float]:
    """The wait status, and the most MiB that were resident."""
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return status, usage.ru_maxrss / 1024
        grown = _resident_mebibytes(child) - before
        if time.monotonic() - started > SECONDS + 1 or grown > _KILL_MEBIBYTES:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return status, usage.ru_maxrss / 1024
        time.sleep(0.005)


def _resident_mebibytes(process: int) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def warm_up() -> None:
    """Import what every case needs, and have the tiny model in the cache."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked child cannot make a pool of threads
    import torch

    torch.set_num_threads(1)
    for module in ("amaqctl.cli.main", "amaqctl.forecast"):
        importlib.import_module(module)
    from amaqctl.model.configuration import load_config
    from amaqctl.model.source import resolve_source
    from amaqctl.model.tokenizer import load_tokenizer

    source = resolve_source("tiny", None, local_files_only=True)
    load_config(source)
    load_tokenizer(source)


def run_all(
    cases: Iterator[Case], num_cases: int, keep: Path | None = None, only: int | None = None
) -> int:
    """Run so many cases and report; the number that failed.

    Args:
        cases: where they come from. num_cases: how many to take.
        keep: a folder for the files and the output of those that failed.
        only: run the case of this number alone, and show what it prints.
    """
    warm_up()
    codes: Counter[int] = Counter()
    failed, slowest, largest = 0, 0.0, 0.0
    for number, case in enumerate(islice(cases, num_cases)):
        if only not in (None, number):
            continue
        outcome = run_case(case)
        codes[outcome.exit_code] += 1
        slowest = max(slowest, outcome.seconds)
        largest = max(largest, outcome.grown_mebibytes)
        fault = outcome.fault()
        if fault:
            failed += 1
            # A name may hold halves of surrogate pairs.
            print(f"case {number}, {case.name!a}: {fault}", flush=True)
            print("    " + _last_line(outcome.output), flush=True)
            if keep is not None:
                _keep(keep / str(number), case, outcome)
        if only is not None:
            print(outcome.output.decode("utf-8", "replace"))
    ends = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
    print(f"{codes.total()} cases, {failed} failed; exit codes {ends}")
    print(f"slowest {slowest:.1f} s, largest growth {largest:.0f} MiB")
    return failed


def _last_line(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "(no output)"


def _keep(folder: Path, case: Case, outcome: Outcome) -> None:
    for path, content in case.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / "output.txt").write_bytes(outcome.output)
    (folder / "command.txt").write_text(f"{case.name!a}\namaqctl {case.arguments!a}\n")


def main(cases: Callable[[int], Iterator[Case]], about: str | None) -> int:
    """The command line of a module of cases: 0 where every case passed, else 1."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=300, help="how many to run")
    parser.add_argument("--seed", type=int, default=0, help="decides the cases")
    parser.add_argument("--keep", type=Path, help="folder for what failed")
    parser.add_argument("--only", type=int, help="run the case of this number alone")
    asked = parser.parse_args()
    return int(bool(run_all(cases(asked.seed), asked.cases, asked.keep, asked.only)))
