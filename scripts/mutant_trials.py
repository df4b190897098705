"""Trials of mutants: a server that has imported everything but the package, and a fork for each.

A child installs a finder that gives one module the mutated code, so that no file is touched, and
runs pytest in itself. Which tests a mutant gets follows from a first run without a fault, in which
every test's lines in the modules are noted: the tests that ran the line, the quickest first.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import io
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
from mutant_baseline import Baseline, Observer, TestRun
from mutants import Mutant

_PACKAGE = "amaqctl"
_MEMORY_BYTES = 12 * 2**30
# A failure is only counted: nothing that explains one, and no collection of garbage at the end.
_ARGUMENTS = [
    "-x",
    "-q",
    "--tb=no",
    "--assert=plain",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:unraisableexception",
]


@dataclass(frozen=True)
class Verdict:
    """How a trial ended: ``killed``, ``survived`` or ``timed out``, and by which test."""

    outcome: str
    by: str = ""


class _Mutated(SourceFileLoader):
    """Finds one module, and gives it other code; its file stays the one in the tree."""

    def __init__(self, root: Path, mutant: Mutant) -> None:
        name = mutant.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        SourceFileLoader.__init__(self, name, str(root / mutant.path))
        self._code = compile(mutant.code, self.path, "exec")

    def find_spec(
        self, fullname: str, path: object, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def get_code(self, fullname: str) -> CodeType:
        return self._code


def _run_tests(root: Path, names: list[str], observer: Observer) -> int:
    os.chdir(root)
    os.environ["OMP_NUM_THREADS"] = "1"
    from hypothesis import Phase, settings

    phases = (Phase.explicit, Phase.generate)  # no database, and a failure is not made smaller
    settings.register_profile(
        "mutants", database=None, derandomize=True, deadline=None, phases=phases
    )
    settings.load_profile("mutants")
    return int(pytest.main([*_ARGUMENTS, *names], plugins=[observer]))


def _in_child(work: Callable[[], dict[str, Any]], cpu_seconds: float) -> tuple[int, int]:
    """Fork a child that writes what ``work`` gives into a pipe; its pid and the pipe's end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        _isolate(cpu_seconds)
        answer = work()
    except BaseException:
        answer = {"error": traceback.format_exc()}
    try:
        with os.fdopen(writing, "w") as pipe:
            json.dump(answer, pipe)
    finally:
        os._exit(0)


def _isolate(cpu_seconds: float) -> None:
    """A process group of its own, limits, and outputs that go nowhere."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds) + 1, int(cpu_seconds) + 5))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115


def _answer(reading: int) -> dict[str, Any] | None:
    """What a child wrote before it ended; None if it was ended."""
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    return json.loads(text) if text else None


def baseline(root: Path, tests: list[str], modules: list[str]) -> Baseline:
    """Run the tests without a fault.

    Raises:
        SystemExit: they do not pass.
    """

    def work() -> dict[str, Any]:
        observer = Observer(root, modules)
        observer.watch()
        code = _run_tests(root, tests, observer)
        libraries = [n for n in sys.modules if n.partition(".")[0] not in (_PACKAGE, "__main__")]
        runs = {name: asdict(run) for name, run in observer.tests.items()}
        return {"code": code, "failed": observer.failed, "tests": runs,
                "imported": observer.imported, "libraries": libraries}  # fmt: skip

    pid, reading = _in_child(work, 3600)
    answer = _answer(reading)
    os.waitpid(pid, 0)
    if answer is None or answer.get("code") != 0:
        raise SystemExit(f"the tests fail without a fault: {str(answer)[:2000]}")
    runs = {name: TestRun(**run) for name, run in answer["tests"].items()}
    return Baseline(runs, answer["imported"], answer["libraries"])


def import_libraries(root: Path, names: Iterable[str]) -> None:
    """Load into this process what the tests loaded of others, so that every child has it."""
    for name in names:
        spec = None
        with contextlib.suppress(ImportError, ValueError, AttributeError):
            spec = importlib.util.find_spec(name)
        if spec and spec.origin and not spec.origin.startswith(str(root)):
            with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):
                importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    gc.freeze()  # what children share stays shared, and is not searched by each of them


def trials(
    root: Path, work: Iterable[tuple[Mutant, list[str], float]], jobs: int
) -> Iterator[tuple[Mutant, Verdict]]:
    """Try each mutant on its tests, ``jobs`` at a time, within seconds of processor time."""
    pending = iter(work)
    running: dict[int, tuple[Mutant, int, float]] = {}
    while True:
        while len(running) < jobs and (following := next(pending, None)):
            mutant, tests, seconds = following
            if not tests:
                yield mutant, Verdict("survived", "no test runs this line")
                continue
            pid, reading = _in_child(partial(_trial, root, mutant, tests), seconds)
            running[pid] = (mutant, reading, time.monotonic() + 10 * seconds)
        if not running:
            return
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            for late in [p for p, (_, _, end) in running.items() if time.monotonic() > end]:
                os.killpg(late, signal.SIGKILL)
            time.sleep(0.02)
            continue
        mutant, reading, _ = running.pop(pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # whatever it started
        yield mutant, _verdict(_answer(reading), status)


def _trial(root: Path, mutant: Mutant, tests: list[str]) -> dict[str, Any]:
    sys.meta_path.insert(0, _Mutated(root, mutant))
    observer = Observer(root, ())
    code = _run_tests(root, tests, observer)
    if (
        code == pytest.ExitCode.USAGE_ERROR and not observer.failed
    ):  # a test's id has changed with the module
        files = sorted({name.partition("::")[0] for name in tests})
        code = _run_tests(root, files, observer)
    return {"code": code, "failed": observer.failed}


def _verdict(answer: dict[str, Any] | None, status: int) -> Verdict:
    if answer is None:
        is_late = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
        return Verdict("timed out" if is_late else "killed", "the process ended")
    if answer.get("code") == 0:
        return Verdict("survived")
    return Verdict("killed", answer.get("failed") or answer.get("error", "").strip()[-200:])
