"""What a clause found: where it looked, what it expected, what it got."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from amaqctl.errors import PluginError


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
    """An error in one line, with the file and line that raised it."""
    if isinstance(error, PluginError):
        if not isinstance(error.__cause__, Exception):
            return str(error)  # what it did wrongly without raising, in words
        error = error.__cause__  # what the quantizer itself raised
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({Path(last.filename).name}:{last.lineno})"
