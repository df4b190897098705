"""Commands that messages advise: they run as they are printed, whatever is in a path."""

from __future__ import annotations

import shlex
from pathlib import Path

from amaqctl.engine.run_folder import RunFolder, find_run
from amaqctl.errors import AmaqError


def advised(*words: str | Path) -> str:
    """``amaqctl`` and the words, quoted where a shell needs it."""
    safe = [
        f"./{word}" if isinstance(word, Path) and _is_like_option(word) else word for word in words
    ]
    return shlex.join(["amaqctl", *map(str, safe)])


def name_of(run: RunFolder, root: Path) -> str | Path:
    """The shortest that finds the run again: its id where it lies in ``root``, else its folder."""
    run_id = run.run.get("id")
    try:
        found = find_run(str(run_id), root) if run_id else None
    except AmaqError:  # the id fits others too
        found = None
    is_this = found is not None and found.path.resolve() == run.path.resolve()
    return str(run_id) if is_this else run.path


def way_on(run: RunFolder) -> str:
    """The hint for a run that was stopped."""
    return f"go on with: {advised('train', '--resume', run.path)}"


def _is_like_option(path: Path) -> bool:
    return str(path).startswith("-")
