"""Folders that amaqctl makes once and reads often: the tiny and the converted model.

A folder appears whole or not at all, so two processes may make the same one at once.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_dir

from amaqctl.errors import InputError, ResourceError


def cache_root() -> Path:
    """``AMAQCTL_CACHE``, or the platform's cache folder for amaqctl."""
    return Path(os.environ.get("AMAQCTL_CACHE") or user_cache_dir("amaqctl"))


def materialise(name: str, write: Callable[[Path], None]) -> Path:
    """The folder ``name`` of the cache, filled by ``write`` if it is not there yet.

    Args:
        name: unique for the content, version of its recipe included.
        write: fills the empty folder that it is given.

    Raises:
        InputError: the cache folder cannot be written.
        ResourceError: the disk is full.
    """
    folder = cache_root() / name
    if folder.is_dir():
        return folder
    unfinished = folder.with_name(f".{name}-{uuid.uuid4().hex}")
    try:
        unfinished.mkdir(parents=True)
        write(unfinished)
        _rename_unless_there(unfinished, folder)
    except OSError as error:
        raise _explained(error, folder) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _rename_unless_there(unfinished: Path, folder: Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError:
        # Another process finished the same folder first: its content is as good as ours.
        if not folder.is_dir():
            raise


def _explained(error: OSError, folder: Path) -> InputError | ResourceError:
    if error.errno == errno.ENOSPC:
        return ResourceError(
            "no space left for the model cache",
            where=str(folder),
            hint="free some space, or set AMAQCTL_CACHE to a folder on another disk",
            error_id="RESOURCE-DISK",
        )
    return InputError(
        f"the model cache cannot be written: {error.strerror or error}",
        where=str(folder),
        hint="set AMAQCTL_CACHE to a folder that you may write to",
        error_id="INPUT-CACHE",
    )
