"""The tests without a fault: how long each takes, and which lines of the modules it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from mutants import Mutant


@dataclass(frozen=True)
class TestRun:
    """One test without a fault: its seconds of the processor, and the lines it ran by module."""

    seconds: float
    lines: dict[str, list[int]]


@dataclass(frozen=True)
class Baseline:
    """The tests without a fault.

    Attributes:
        tests: by pytest's id.
        imported: lines by module that run when the module is imported, so in every test.
        libraries: modules of others that the tests loaded, in their order.
    """

    tests: dict[str, TestRun]
    imported: dict[str, list[int]]
    libraries: list[str]

    def tests_of(
        self, mutant: Mutant, budget_seconds: float, kills: Mapping[str, int] | None = None
    ) -> list[str]:
        """Ids of the tests that run the mutant's lines, up to a budget.

        The quickest come first, and those that have killed others before.
        """
        first, last = mutant.line, mutant.last_line
        is_imported = any(first <= n <= last for n in self.imported.get(mutant.path, ()))
        concerned = [
            (run.seconds / (1 + 5 * (kills or {}).get(name, 0)), name)
            for name, run in self.tests.items()
            if is_imported or any(first <= n <= last for n in run.lines.get(mutant.path, ()))
        ]
        chosen: list[str] = []
        total = 0.0
        for _, name in sorted(concerned):
            total += self.tests[name].seconds
            if not chosen or total <= budget_seconds:
                chosen.append(name)
        return chosen

    def seconds_of(self, names: Iterable[str]) -> float:
        """What these tests took."""
        return sum(self.tests[name].seconds for name in names)


class Observer:
    """A pytest plugin: the first failure, and each test's time and lines in the modules."""

    def __init__(self, root: Path, modules: Iterable[str]) -> None:
        self.tests: dict[str, TestRun] = {}
        self.imported: dict[str, list[int]] = {}
        self.failed = ""
        self._places = {str(root / module): module for module in modules}
        self._lines: dict[str, set[int]] = {}

    def watch(self) -> None:
        """Note lines from now on."""
        sys.settrace(self._on_call)

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        module = self._places.get(frame.f_code.co_filename)
        if module is None:
            return None
        lines = self._lines.setdefault(module, set())
        lines.add(frame.f_lineno)

        def on_line(frame: FrameType, event: str, argument: Any) -> Any:
            lines.add(frame.f_lineno)
            return on_line

        return on_line

    def _taken(self) -> dict[str, list[int]]:
        lines = {module: sorted(numbers) for module, numbers in self._lines.items()}
        self._lines.clear()
        return lines

    def pytest_collection_finish(self) -> None:
        self.imported = self._taken()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        if self._places:
            self.watch()  # a test may have taken the tracer away
        before = time.process_time()
        result = yield
        seconds = time.process_time() - before
        self.tests[item.nodeid] = TestRun(round(seconds, 4), self._taken())
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.failed:
            self.failed = f"{report.nodeid} (collection)"
