"""Runs the real command line on hostile input, many times, each in a process of its own.

torch is imported once; a case is a fork that goes into a fresh folder, writes the case's files
and calls the program's own ``main``. A case fails when the program ends in exit code 1 or by a
signal, shows a traceback, works or waits too long, or grows by more than ``MEBIBYTES`` of
resident memory. A kind of cases is a module with a function ``cases(seed)`` that yields them
without end. Where the command line would cost too much, a case is a `Check` in this process.
"""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 20.0
"""Of processor time, which does not depend on who else is at work."""
WAITING_SECONDS = 20.0
"""Of wall clock in which it does nothing and asks for no processor, as one who reads a pipe."""
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
class Check:
    """One call of a function.

    Attributes:
        name: what was done to which input, for the report.
        run: returns one word for how it ended; whatever it raises is a fault.
    """

    name: str
    run: Callable[[], str]


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        exit_code: of the program; -N where signal N ended it.
        seconds: of processor time.
        waited_seconds: of wall clock, the longest that it did nothing.
        grown_mebibytes: resident memory at its peak, less what the process began with.
        output: of stdout and stderr together.
    """

    exit_code: int
    seconds: float
    grown_mebibytes: float
    output: bytes
    waited_seconds: float = 0.0

    def fault(self) -> str | None:
        """Why the case fails; None where it passes."""
        if self.seconds > SECONDS:
            return f"hang: {self.seconds:.0f} s"
        if self.waited_seconds > WAITING_SECONDS:
            return f"hang: {self.waited_seconds:.0f} s of waiting"
        if self.grown_mebibytes > MEBIBYTES:
            return f"memory: {self.grown_mebibytes:.0f} MiB"
        if self.exit_code == 1 or self.exit_code < 0:
            return f"exit code {self.exit_code}"
        if any(words in self.output for words in _OUR_BUG):
            return "a traceback, or a bug of ours"
        return None


def run_case(case: Case, folder: Path | None = None) -> Outcome:
    """Run ``case`` in a fork of this process.

    Args:
        folder: where it runs; None for a fresh one, which is removed afterwards.
    """
    place = str(folder) if folder else tempfile.mkdtemp(prefix="amaqctl-fuzz-")
    descriptor, log = tempfile.mkstemp(prefix="amaqctl-fuzz-")
    os.close(descriptor)
    try:
        child = os.fork()
        if child == 0:
            _be_the_program(case, place, log)
        before = _resident_mebibytes(child)  # less than ours: a fork leaves file pages behind
        status, usage, waited_seconds = _watch(child, before)
        return Outcome(
            os.waitstatus_to_exitcode(status),
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss / 1024 - before,
            Path(log).read_bytes()[-20_000:],
            waited_seconds,
        )
    finally:
        os.unlink(log)
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)


def set_up(case: Case, folder: Path) -> None:
    """Make a folder with the case's files in it and go there."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    for path, content in case.files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content)
    if case.prepare is not None:
        case.prepare()


def _be_the_program(case: Case, folder: str, log: str) -> None:
    """Never returns: writes the case's files and leaves with the program's exit code."""
    code = 1
    try:
        os.setsid()
        set_up(case, Path(folder))
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


def _watch(child: int, before: float) -> tuple[int, resource.struct_rusage, float]:
    """The wait status, what the child used, how long it waited; one that goes too far is ended."""
    active, seconds, longest = time.monotonic(), 0.0, 0.0
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return status, usage, longest
        state, now = _state_and_seconds(child)
        if state != "S" or now > seconds:
            active, seconds = time.monotonic(), now
        longest = max(longest, time.monotonic() - active)
        grown = _resident_mebibytes(child) - before
        if now > SECONDS or longest > WAITING_SECONDS or grown > _KILL_MEBIBYTES:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return status, usage, longest
        time.sleep(0.01)


def _state_and_seconds(process: int) -> tuple[str, float]:
    """``S`` for one that waits, and its processor time."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0.0
    return fields[0], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
