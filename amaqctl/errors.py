"""The error tree. Every error that a user can cause is one of these; anything else is our bug.

::

    AmaqError
    ├── UsageError            2  the command was typed wrongly
    ├── ProfileError          3  the profile is not valid; carries every problem found
    ├── InputError            4  model, data, run, trace or file missing or unreadable
    ├── PluginError           5  quantizer, task or transport unknown, broken or ambiguous
    ├── QuantizationError     5  a quantizer was given, or made, what it must not
    ├── DivergedError         6  NaN or infinity in the loss or at a cut
    ├── ResourceError         7  out of disk or memory
    ├── CheckError            8  a requested check failed
    ├── ResumeError           9  a checkpoint cannot be continued
    ├── PeerError            10  the other side, or the network, failed
    │   ├── WireError            the peer sent a message that is not legal
    │   └── TransportError       no message came, or none could be sent
    └── Interrupted    130/143   a signal asked the run to stop, and it saved first

Each error has one line of message, the place it speaks of (``where``) and, where there is
one, the way out (``hint``). Exit codes are documented in ``docs/command-line.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_MEMORY_WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "status_alloc_failed",  # of CUDA's libraries, which ask for memory of their own
    "failed to map segment",  # a library that is imported
)


class AmaqError(Exception):
    """Base of all errors that name their fix.

    Args:
        message: one line, no final full stop.
        where: file, key, link or step that the message speaks of.
        hint: what the user can do about it.
        error_id: stable identifier for programs, such as ``INPUT-COLUMN``.
    """

    exit_code = 1
    default_id = "INTERNAL"
    problems: tuple[Problem, ...] = ()

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        error_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint
        self.error_id = error_id or self.default_id

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class UsageError(AmaqError):
    """The command line itself is wrong."""

    exit_code = 2
    default_id = "USAGE"


@dataclass(frozen=True, order=True)
class Problem:
    """One fault in a profile; sorts by position.

    ``line`` and ``column`` count from 1; both are 0 where there is no position, as in ``--set``.
    """

    line: int
    column: int
    file: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.message}"


class ProfileError(AmaqError):
    """The profile is not valid. ``problems`` lists every fault found, sorted by line."""

    exit_code = 3
    default_id = "PROFILE"

    def __init__(
        self,
        message: str,
        *,
        problems: Sequence[Problem] = (),
        where: str | None = None,
        hint: str | None = None,
        error_id: str | None = None,
    ) -> None:
        super().__init__(message, where=where, hint=hint, error_id=error_id)
        self.problems = tuple(sorted(problems))


class InputError(AmaqError):
    """Model, data, run, trace or file is missing or unreadable."""

    exit_code = 4
    default_id = "INPUT"


class PluginError(AmaqError):
    """A registered name is unknown, broken, or offered twice.

    ``problems`` has every such name of a profile where there are several, sorted by line.
    """

    exit_code = 5
    default_id = "PLUGIN"

    def __init__(
        self,
        message: str,
        *,
        problems: Sequence[Problem] = (),
        where: str | None = None,
        hint: str | None = None,
        error_id: str | None = None,
    ) -> None:
        super().__init__(message, where=where, hint=hint, error_id=error_id)
        self.problems = tuple(sorted(problems))


class QuantizationError(AmaqError):
    """A quantizer was given, or made, what it must not."""

    exit_code = 5
    default_id = "QUANTIZATION"


class DivergedError(AmaqError):
    """Training produced NaN or infinity."""

    exit_code = 6
    default_id = "DIVERGED"


class ResourceError(AmaqError):
    """Out of disk or memory."""

    exit_code = 7
    default_id = "RESOURCE"


class CheckError(AmaqError):
    """A check that the user asked for failed."""

    exit_code = 8
    default_id = "CHECK"


class ResumeError(AmaqError):
    """A run cannot be continued from what is on disk."""

    exit_code = 9
    default_id = "RESUME"


class PeerError(AmaqError):
    """The other side, or the network, failed."""

    exit_code = 10
    default_id = "PEER"


class WireError(PeerError):
    """The peer sent bytes that are no legal message."""

    default_id = "PEER-WIRE"


class TransportError(PeerError):
    """No message came, or none could be sent."""

    default_id = "PEER-TRANSPORT"


def is_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in the words of Python, torch or the loader."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _MEMORY_WORDS)


class Interrupted(AmaqError):  # noqa: N818 - it is no fault
    """A signal asked the run to stop; everything is saved. Exit code 128 + signal number."""

    default_id = "INTERRUPTED"

    def __init__(self, message: str, *, signal_number: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = 128 + signal_number
