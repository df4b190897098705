#!/usr/bin/env python
"""Mutation testing: makes small faults in modules, and tells which of them no test notices.

    scripts/mutate.py amaqctl/bits amaqctl/wire --sample 200 --seed 1

Nothing in the tree is changed. Each mutant is tried in a fork of a process that has imported
everything but the package, on those tests that run its line, the quickest first. What was found
is kept in `--results`: a second run tries again only what new code or new tests may have changed.
Survivors that no test should kill are listed, each with its reason, in `mutants_accepted.txt`.

Exit code 0 if every mutant tried was killed or accepted, else 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from mutant_baseline import Baseline, TestRun
from mutant_trials import Verdict, baseline, import_libraries, trials
from mutants import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[1]
ACCEPTED = Path(__file__).with_name("mutants_accepted.txt")

_ENGINE = "test_engine_link test_engine_stage test_engine_micro_batches"
_AMAQ = "test_quantizer_amaq test_quantizer_amaq_options test_quantizer_amaq_tracked"
_GRID = "test_quantizer_amaq_grid test_quantizer_amaq_outliers test_quantizer_amaq_layout"
_CONTRACT = "test_quantizer_wrapper test_quantizer_layouts test_nested_options test_engine_link"
# The tests that concern a module, those that take seconds: of the longest path it begins with.
TESTS = {
    "amaqctl/bits": "test_bits test_golden test_quantizer_fixed_group test_wire",
    "amaqctl/wire": "test_wire test_wire_* test_golden",
    "amaqctl/quantizer/": f"{_CONTRACT} test_plugin_blame test_quantizer_aq_sgd test_sample_memory",
    "amaqctl/quantizer/choice.py": "test_quantizer_choice test_nested_options test_plugin_blame",
    "amaqctl/quantizer/layout.py": "test_quantizer_layout test_quantizer_layouts",
    "amaqctl/quantizer/contract.py": f"{_CONTRACT} test_quantizer_twin test_sample_memory",
    "amaqctl/quantizer/end.py": f"{_CONTRACT} test_plugin_blame test_quantizer_end",
    "amaqctl/quantizer/report_fault.py": "test_report_fault",
    "amaqctl/quantizer/tensors.py": f"{_CONTRACT} test_rounding_noise test_quantizer_fixed_group",
    "amaqctl/quantizer/sample_memory.py": "test_sample_memory test_quantizer_aq_sgd",
    "amaqctl/quantizers/": f"{_AMAQ} {_GRID}",
    "amaqctl/quantizers/aq_sgd.py": "test_quantizer_aq_sgd test_quantizer_layouts",
    "amaqctl/quantizers/bit_budget.py": "test_quantizer_amaq_grid",
    "amaqctl/quantizers/c": _GRID,
    "amaqctl/quantizers/column_harm.py": "test_column_harm test_quantizer_amaq_tracked",
    "amaqctl/quantizers/fixed.py": "test_quantizer_fixed_group test_quantizer_layouts",
    "amaqctl/quantizers/group.py": "test_quantizer_fixed_group test_quantizer_layouts",
    "amaqctl/quantizers/hidden_shape.py": _GRID,
    "amaqctl/quantizers/mixed_": _GRID,
    "amaqctl/quantizers/none.py": "test_golden test_engine_link",
    "amaqctl/quantizers/outlier_tokens.py": _GRID,
    "amaqctl/quantizers/prompt_ranges.py": "test_quantizer_amaq_prompt",
    "amaqctl/engine": _ENGINE,
    "amaqctl/engine/stage.py": "test_engine_stage test_engine_micro_batches",
    "amaqctl/engine/schedule.py": "test_engine_schedule",
    "amaqctl/engine/checkpoint.py": "test_checkpoint* test_run_disk",
    "amaqctl/storage": "test_storage*",
    "amaqctl/transports": "test_transport_session test_transport_mailbox test_transport_route",
}


def main() -> int:
    """The command."""
    options = _options()
    modules = sorted({m for path in options.paths for m in _modules_of(path)})
    mutants = [m for path in modules for m in mutants_of(path, (ROOT / path).read_text("utf-8"))]
    mutants = [m for m in mutants if options.only in m.key]
    accepted = accepted_reasons()
    if options.accepted:
        mutants, accepted = [m for m in mutants if m.key in accepted], {}
    mutants = sorted(mutants, key=lambda m: _hash(options.seed, m.key))[: options.sample]
    mutants.sort(key=lambda m: (m.path, m.line))
    if options.list:
        print("\n".join(f"{m.path}:{m.line}\n- {m.before}\n+ {m.after}" for m in mutants))
        return 0
    tests = sorted({name for module in modules for name in _tests_of(module)})
    ledger = Ledger(options.results, tests)
    verdicts = {m: v for m in mutants if (v := ledger.known(m))}
    todo = [m for m in mutants if m not in verdicts and m.key not in accepted]
    if todo:
        quiet = ledger.baseline(tests, modules)
        for mutant, verdict in _tried(todo, quiet, options.budget, options.jobs):
            verdicts[mutant] = verdict
            ledger.add(mutant, verdict)
            print(f"{verdict.outcome:9}  {mutant.path}:{mutant.line}", file=sys.stderr)
    return _report(mutants, verdicts, accepted)


def _tried(
    mutants: list[Mutant], quiet: Baseline, budget_seconds: float, jobs: int
) -> Iterator[tuple[Mutant, Verdict]]:
    """Verdicts as they come; tests that killed one mutant are early in the next one's trial."""
    kills: Counter[str] = Counter()

    def work() -> Iterator[tuple[Mutant, list[str], float]]:
        for mutant in mutants:
            tests = quiet.tests_of(mutant, budget_seconds, kills)
            # Processor seconds: much more than these tests take without a fault.
            yield mutant, tests, 20 + 4 * quiet.seconds_of(tests)

    import_libraries(ROOT, quiet.libraries)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        for mutant, verdict in trials(ROOT, work(), jobs):
            kills[verdict.by] += 1
            yield mutant, verdict


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="+", help="modules or folders, from the repository's root")
    parser.add_argument("--sample", type=int, default=None, help="try so many of them")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--only", default="", help="mutants whose path or text contains this")
    parser.add_argument(
        "--accepted", action="store_true", help="only those that are listed: do they still survive?"
    )
    parser.add_argument("--list", action="store_true", help="show them, try none")
    parser.add_argument(
        "--budget", type=float, default=30.0, help="seconds of tests, at most, for a mutant"
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / "build" / "mutants", help="folder of what was found"
    )
    return parser.parse_args()


def _modules_of(path: str) -> list[str]:
    place = (ROOT / path).resolve()
    files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
    return [file.relative_to(ROOT).as_posix() for file in files]


def _tests_of(module: str) -> list[str]:
    known = [prefix for prefix in TESTS if module.startswith(prefix)]
    patterns = TESTS[max(known, key=len)].split() if known else ["test_*"]
    found = [p for pattern in patterns for p in (ROOT / "tests").glob(f"{pattern}.py")]
    return [path.relative_to(ROOT).as_posix() for path in found]


def _hash(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


class Ledger:
    """What was found before, as long as it still holds.

    A killed mutant stays killed while its module is the same; a survivor is tried again when a
    test file has changed too.
    """

    def __init__(self, folder: Path, tests: list[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = folder / "verdicts.jsonl"
        self._tests = _hash(*((ROOT / name).read_text("utf-8") for name in tests))
        self._known: dict[str, tuple[str, Verdict]] = {}
        if self._file.exists():
            for line in self._file.read_text("utf-8").splitlines():
                record = json.loads(line)
                verdict = Verdict(record["outcome"], record["by"])
                self._known[record["mutant"]] = (record["tests"], verdict)

    def known(self, mutant: Mutant) -> Verdict | None:
        """The verdict that still holds."""
        tests, verdict = self._known.get(self._name(mutant), ("", None))
        is_fresh = verdict and (verdict.outcome == "killed" or tests == self._tests)
        return verdict if is_fresh else None

    def add(self, mutant: Mutant, verdict: Verdict) -> None:
        """Keep a verdict."""
        record = {"mutant": self._name(mutant), "tests": self._tests, **asdict(verdict)}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def baseline(self, tests: list[str], modules: list[str]) -> Baseline:
        """The tests without a fault, from the ledger if neither they nor the modules changed."""
        sources = [(ROOT / module).read_text("utf-8") for module in modules]
        file = self._folder / f"baseline-{_hash(self._tests, *modules, *sources)[:16]}.json"
        if not file.exists():
            print(f"{len(tests)} test files without a fault …", file=sys.stderr)
            file.write_text(json.dumps(asdict(baseline(ROOT, tests, modules))), "utf-8")
        document = json.loads(file.read_text("utf-8"))
        runs = {name: TestRun(**run) for name, run in document.pop("tests").items()}
        return Baseline(tests=runs, **document)

    def _name(self, mutant: Mutant) -> str:
        return _hash(mutant.key, mutant.line, (ROOT / mutant.path).read_text("utf-8"))


def accepted_reasons() -> dict[str, str]:
    """Reasons by mutant. An entry is four lines: the path, `- before`, `+ after`, `= reason`."""
    reasons = {}
    text = ACCEPTED.read_text("utf-8") if ACCEPTED.exists() else ""
    for entry in text.split("\n\n"):
        lines = [line for line in entry.splitlines() if line and not line.startswith("#")]
        if lines:
            assert len(lines) == 4, f"not path, before, after and reason: {entry}"
            reasons["\n".join(lines[:3])] = lines[3].removeprefix("= ")
    return reasons


def _report(
    mutants: list[Mutant], verdicts: dict[Mutant, Verdict], accepted: dict[str, str]
) -> int:
    rooms: dict[str, Counter[str]] = {}
    open_ones = 0
    for mutant in mutants:
        verdict = verdicts.get(mutant, Verdict("accepted"))
        is_accepted = verdict.outcome == "survived" and mutant.key in accepted
        outcome = "accepted" if is_accepted else verdict.outcome
        rooms.setdefault(mutant.path, Counter())[outcome] += 1
        if outcome in ("survived", "timed out"):
            open_ones += outcome == "survived"
            note = f" ({verdict.by})" if verdict.by else ""
            print(f"\n{mutant.path}:{mutant.line}  {outcome}{note}")
            print(f"- {mutant.before}\n+ {mutant.after}")
    print(f"\n{'module':45} {'mutants':>8} {'killed':>7} {'survived':>9} {'accepted':>9}")
    rooms["all"] = sum(rooms.values(), Counter())
    for name, counts in rooms.items():
        killed = counts["killed"] + counts["timed out"]
        row = f"{counts.total():8} {killed / counts.total():7.1%}"
        print(f"{name:45} {row} {counts['survived']:9} {counts['accepted']:9}")
    return 1 if open_ones else 0


if __name__ == "__main__":
    begin = time.monotonic()
    code = main()
    print(f"{time.monotonic() - begin:.0f} seconds", file=sys.stderr)
    raise SystemExit(code)
