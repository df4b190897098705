"""Links inside a run folder, through which training would write, cut off or delete elsewhere."""

from __future__ import annotations

import stat
from pathlib import Path

_WRITTEN = ("run.json", "environment.json", "adapter", "bits", "checkpoints", "quantizer")
_GROWING = ("metrics.jsonl", "log.txt")


def first_link(run: Path) -> Path | None:
    """The first symbolic link among what training writes; the folder itself may be one.

    A second name of a file that grows counts too: its other name would grow as well.
    """
    for name in (*_WRITTEN, *_GROWING):
        for path in (run / name, *sorted((run / name).rglob("*"))):
            if path.is_symlink():
                return path
    for path in (run / name for name in _GROWING):
        if path.exists() and (not stat.S_ISREG(path.lstat().st_mode) or path.lstat().st_nlink > 1):
            return path
    return None
