"""Runs cases of every kind, tells how they ended, and keeps those that failed."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shlex
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fuzzing.runner import MEBIBYTES, SECONDS, Case, Check, run_case, set_up, warm_up

KINDS = ("inputs", "models", "runs", "traces", "messages", "sessions", "streams")


@dataclass(frozen=True)
class Ending:
    """How one case ended.

    Attributes:
        end: exit code, or what a check returned.
        fault: why it fails; None where it passes.
        output: its last line.
    """

    number: int
    name: str
    end: str
    seconds: float
    mebibytes: float
    fault: str | None
    output: str


def cases_of(kind: str, seed: int) -> Iterator[Case | Check]:
    """The cases of one kind; the same seed gives the same ones."""
    cases: Iterator[Case | Check] = importlib.import_module(f"fuzzing.{kind}").cases(seed)
    return cases


def run_kind(
    kind: str,
    seed: int,
    num_cases: int,
    keep: Path | None = None,
    only: int | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Ending]:
    """Run so many cases of a kind, or that one of the number ``only``.

    Args:
        keep: a folder for those that failed: the files as they were, output and command.
        share: (index, number) of this process among those that share the cases.
    """
    for number, case in enumerate(islice(cases_of(kind, seed), num_cases)):
        if (only is not None and number != only) or number % share[1] != share[0]:
            continue
        ending, output = _ended(number, case)
        if only is not None:
            print(output)
        if ending.fault and keep is not None:
            _keep(keep / f"{kind}-{seed}-{number}", kind, seed, case, ending, output)
        yield ending


def _ended(number: int, case: Case | Check) -> tuple[Ending, str]:
    if isinstance(case, Check):
        return _checked(number, case)
    outcome = run_case(case)
    output = outcome.output.decode("utf-8", "replace")
    last = (output.strip().splitlines() or ["(no output)"])[-1][:120]
    end, seconds, grown = str(outcome.exit_code), outcome.seconds, outcome.grown_mebibytes
    return Ending(number, case.name[:100], end, seconds, grown, outcome.fault(), last), output


def _checked(number: int, check: Check) -> tuple[Ending, str]:
    before, started = _peak_mebibytes(), time.monotonic()
    try:
        end, fault = check.run(), None
    except Exception as error:
        end, fault = "failed", f"{type(error).__name__}: {error}"[:100]
    seconds, grown = time.monotonic() - started, _peak_mebibytes() - before
    if fault is None and seconds > SECONDS:
        fault = f"hang: {seconds:.0f} s"
    if fault is None and grown > MEBIBYTES:
        fault = f"memory: {grown:.0f} MiB"
    return Ending(number, check.name[:100], end, seconds, grown, fault, end), fault or end


def _peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _keep(
    folder: Path, kind: str, seed: int, case: Case | Check, ending: Ending, output: str
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{case.name!a}", f"{ending.fault!a}", replay(kind, seed, ending.number)]
    if isinstance(case, Case):
        child = os.fork()
        if child == 0:
            try:
                set_up(case, folder / "files")
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        arguments = [a.encode("utf-8", "backslashreplace").decode() for a in case.arguments]
        lines.append(f"cd files && {shlex.join(['amaqctl', *arguments])}")
    (folder / "case.txt").write_text("\n".join(lines) + "\n", errors="backslashreplace")
    (folder / "output.txt").write_text(output, errors="backslashreplace")


def replay(kind: str, seed: int, number: int) -> str:
    """The command that runs one case again, and shows what it prints."""
    return f"scripts/fuzz.py --kinds {kind} --seed {seed} --only {number}"


def summary(kind: str, endings: list[Ending]) -> str:
    """One line: how many, how they ended, the slowest, the largest."""
    ends = Counter(ending.end for ending in endings)
    order = sorted(ends, key=lambda end: (len(end), end))
    slowest = max((ending.seconds for ending in endings), default=0.0)
    largest = max((ending.mebibytes for ending in endings), default=0.0)
    failed = sum(ending.fault is not None for ending in endings)
    told = ", ".join(f"{end}: {ends[end]}" for end in order)
    return (
        f"{kind}: {len(endings)} cases, {failed} failed; ends {told}; "
        f"slowest {slowest:.1f} s, largest growth {largest:.0f} MiB"
    )


def main() -> int:
    """The command line: 0 where every case passed, else 1."""
    parser = argparse.ArgumentParser(description="Hostile input for every parser.")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--cases", type=int, default=200, help="of each kind; default 200")
    parser.add_argument("--seed", type=int, default=0, help="decides the cases")
    parser.add_argument("--jobs", type=int, default=1, help="cases at once")
    parser.add_argument("--keep", type=Path, help="a folder for those that failed")
    parser.add_argument("--only", type=int, help="run the case of this number alone")
    asked = parser.parse_args()
    num_cases = asked.cases if asked.only is None else asked.only + 1
    jobs = 1 if asked.only is not None else asked.jobs
    warm_up()
    failed = False
    for kind in asked.kinds:
        next(cases_of(kind, asked.seed))  # what all cases begin from is made once
        endings = []
        for ending in _shared(kind, asked.seed, num_cases, asked.keep, asked.only, jobs):
            endings.append(ending)
            if ending.fault:
                failed = True
                print(f"{kind} {ending.number}, {ending.name!a}: {ending.fault}")
                print(f"    {ending.output}\n    {replay(kind, asked.seed, ending.number)}")
        print(summary(kind, endings), flush=True)
    return int(failed)


def _shared(
    kind: str, seed: int, num_cases: int, keep: Path | None, only: int | None, jobs: int
) -> Iterator[Ending]:
    """`run_kind` in as many processes; endings come as they fall."""
    if jobs == 1:
        yield from run_kind(kind, seed, num_cases, keep, only)
        return
    sys.stdout.flush()
    read, write = os.pipe()
    for index in range(jobs):
        if os.fork() == 0:
            os.close(read)
            try:
                for ending in run_kind(kind, seed, num_cases, keep, only, (index, jobs)):
                    # Shorter than what a pipe takes in one piece.
                    os.write(write, (json.dumps(vars(ending)) + "\n").encode())
                os._exit(0)
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(1)
    os.close(write)
    with open(read, encoding="utf-8") as lines:
        for line in lines:
            yield Ending(**json.loads(line))
    statuses = [os.wait()[1] for _ in range(jobs)]
    if any(statuses):
        raise RuntimeError(f"a process of {kind} did not get to its end")
