"""What a disk says no with, as one line: an OSError, or what a library makes of one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from amaqctl.errors import ResourceError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what a disk makes fail within into one line about ``path``.

    Libraries in Rust (safetensors, tokenizers) raise errors of their own, bare ones among them,
    whose text ends in the number; any other exception passes.

    Raises:
        ResourceError: no room, or no permission.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error
    except Exception as error:
        if _errno_in(str(error)) is None:
            raise
        raise disk_error(error, path) from error


def disk_error(error: Exception, path: Path) -> ResourceError:
    """The one-line error for a write to ``path`` that failed."""
    number = error.errno if isinstance(error, OSError) else _errno_in(str(error))
    if number in _FULL:
        hint = "free some space, or choose another place with output.root or --out"
        return ResourceError("the disk is full", where=str(path), hint=hint)
    hint = "choose another place with output.root or --out"
    why = os.strerror(number) if number else str(error)
    if number == errno.EEXIST:
        why = "a file stands where a folder is needed"
    if number == errno.ELOOP:
        why = "a symbolic link stands where a file or folder of ours is needed"
    return ResourceError(f"cannot be written: {why}", where=str(path), hint=hint)


def _errno_in(text: str) -> int | None:
    """The number in ``No space left on device (os error 28)``, as Rust puts it."""
    found = re.search(r"\(os error (\d+)\)", text)
    return int(found[1]) if found else None
