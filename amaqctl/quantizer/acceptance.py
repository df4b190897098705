"""State changes that wait until a whole message was found good.

A message can be refused late: by a check of its values, or by the outer one of two quantizers.
What it would have changed must then be as it was, so changes are handed in while decoding and made
at the end, all of them or none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_waiting: ContextVar[list[Callable[[], None]] | None] = ContextVar("waiting", default=None)


@contextlib.contextmanager
def acceptance() -> Iterator[None]:
    """One message: changes handed in within it are made when it ends without an error.

    Within another one it is a part of that: the outermost decides.
    """
    if _waiting.get() is not None:
        yield
        return
    changes: list[Callable[[], None]] = []
    token = _waiting.set(changes)
    try:
        yield
    finally:
        _waiting.reset(token)
    for change in changes:
        change()


def once_accepted(change: Callable[[], None]) -> None:
    """Make ``change`` when the message that is being decoded is accepted; now, where none is."""
    changes = _waiting.get()
    if changes is None:
        change()
    else:
        changes.append(change)
