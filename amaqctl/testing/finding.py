"""What a clause found: where it looked, what it expected, what it got."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from amaqctl.errors import PluginError
from amaqctl.testing import time_limit


@dataclass(frozen=True)
class Finding:
    """One broken promise.

    Args:
        clause: name of the clause.
        subject: quantizer, role and options.
        case: tensor, step or option that showed it; empty where there is only one case.
        expected, got: in words.
    """

    clause: str
    subject: str
    case: str
    expected: str
    got: str

    def __str__(self) -> str:
        place = f"{self.clause}: {self.subject}" + (f": {self.case}" if self.case else "")
        return f"{place}\n  expected {self.expected}\n  got      {self.got}"


class BrokenPromiseError(Exception):
    """Raised inside a clause; `amaqctl.testing.check` makes a `Finding` of it."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.expected = expected
        self.got = got
        self.cases: list[str] = []


class TooSlowError(BrokenPromiseError):
    """So slow that the other clauses would take minutes."""


def expect(holds: bool, expected: str, got: object) -> None:
    """Break off the clause unless ``holds``."""
    if not holds:
        raise BrokenPromiseError(expected, str(got))


@contextlib.contextmanager
def case(name: str) -> Iterator[None]:
    """Name what is being looked at; any error that leaves the block is a broken promise."""
    try:
        yield
    except BrokenPromiseError as broken:
        broken.cases.insert(0, name)
        raise
    except Exception as error:
        unexpected = BrokenPromiseError("no error", described(error))
        unexpected.cases.append(name)
        raise unexpected from error


def described(error: Exception) -> str:
    """An error in one line, with the file and line that raised it.

    A plugin's is told in the words that name it: it may be another than the one looked at.
    """
    raised: BaseException = error
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, PluginError):
        said = str(error)
        if error.__cause__ is None:
            return said  # what it did wrongly without raising
        raised = error.__cause__
    frames = traceback.extract_tb(raised.__traceback__)
    last = [frame for frame in frames if frame.filename != time_limit.__file__][-1]
    return f"{' '.join(said.split())} ({Path(last.filename).name}:{last.lineno})"
