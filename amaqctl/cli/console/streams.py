"""The standard streams as they really are: closed, full, gone with the reader or the terminal.

What is meant for a person never ends a command: a line that stderr cannot take is dropped. The
result is another matter: a reader that left ends the program as it would end any other (141, the
number of SIGPIPE), and a full disk behind stdout is an error.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

READER_GONE = 141


def prepare() -> None:
    """UTF-8 whatever the locale says, and a place to write to where a stream was closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # started with >&- or 2>&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - as long as the program
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")


def say(text: str) -> None:
    """A line on stderr; dropped when there is nobody to read it."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def give_up(stream: TextIO) -> None:
    """Let everything further, and what is still buffered, go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def finish() -> int:
    """Flush what is left at the end of the program.

    Returns:
        0, or the exit code that a stdout asks for which cannot be written.
    """
    code = 0
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = READER_GONE
    except OSError as error:
        say(f"error: stdout cannot be written: {error.strerror}")
        code = 7
    if code:
        give_up(sys.stdout)
    try:
        sys.stderr.flush()
    except OSError:
        give_up(sys.stderr)
    return code
