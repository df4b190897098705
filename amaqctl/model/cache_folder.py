"""Folders that amaqctl makes once and reads often: the tiny and the converted model.

A folder appears whole or not at all, so two processes may make the same one at once. What it
holds is compared with its manifest whenever it is used; one that is damaged is made again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from platformdirs import user_cache_dir

from amaqctl.errors import InputError, ResourceError
from amaqctl.storage import AlreadyThere, open_regular, read_json, write_folder, write_json

MANIFEST = "MANIFEST.json"


def cache_root() -> Path:
    """``AMAQCTL_CACHE``, or the platform's cache folder for amaqctl."""
    return Path(os.path.expanduser(os.environ.get("AMAQCTL_CACHE") or user_cache_dir("amaqctl")))


def materialise(name: str, write: Callable[[Path], None]) -> Path:
    """The folder ``name`` of the cache, filled by ``write`` if it is not there yet, or damaged.

    Args:
        name: unique for the content, version of its recipe included.
        write: fills the empty folder that it is given.

    Raises:
        ResourceError: the cache folder cannot be written, or the disk is full.
    """
    folder = cache_root() / name
    if is_whole(folder):
        return folder

    def fill(made: Path) -> None:
        write(made)
        write_json(made / MANIFEST, _manifest(made))

    try:
        write_folder(folder, fill, replace=folder.exists())
    except AlreadyThere:
        if not is_whole(folder):  # another process finished it first
            raise
    except ResourceError as error:
        error.message = f"the model cache: {error.message}"
        error.hint = "free some space, or set AMAQCTL_CACHE to a folder that you may write to"
        raise
    return folder


def is_whole(folder: Path) -> bool:
    """Whether a folder of the cache holds exactly what was written."""
    try:
        return bool(read_json(folder / MANIFEST) == _manifest(folder))
    except (OSError, InputError):
        return False


def _manifest(folder: Path) -> dict[str, Any]:
    """Size and SHA-256 of every file by name."""
    files: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.name == MANIFEST:
            continue
        with open_regular(path, None) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
        files[str(path.relative_to(folder))] = {"bytes": size, "sha256": digest}
    return files
