"""Wall time from a command to its end: help, the list of profiles, the dry run of the quickstart.

    python benchmarks/speed/startup.py [--quick]

Medians of five rounds, every command in every round; the files are in the page cache after the
first, which is not counted. The dry run is in float32, which every processor has.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ROUNDS = 5
LIST = "profile list"
DRY_RUN = "train quickstart --dry-run --set model.dtype=float32"


def commands() -> list[str]:
    """Every command's help, and two that do something."""
    sys.path.insert(0, str(ROOT / "scripts"))
    import docs_commands

    names = ["", *docs_commands.commands()]
    return [*(f"{name} --help".strip() for name in names), LIST, DRY_RUN]


def seconds(command: str, folder: str) -> float:
    """One start."""
    program = [sys.executable, "-m", "amaqctl", *command.split()]
    started = time.perf_counter()
    subprocess.run(program, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - started


def measure(quick: bool) -> dict[str, Any]:
    """The part of the record."""
    chosen = ["--help", LIST] if quick else commands()
    taken: dict[str, list[float]] = {command: [] for command in chosen}
    with tempfile.TemporaryDirectory() as folder:
        for number in range((1 if quick else ROUNDS) + 1):
            for command in chosen:
                if command == DRY_RUN and not number:
                    continue
                value = seconds(command, folder)
                if number:
                    taken[command].append(value)
            print(f"round {number}", file=sys.stderr, flush=True)
    return {"rows": [{"command": c, "seconds": _spread(v)} for c, v in taken.items()]}


def _spread(values: list[float]) -> list[float]:
    ordered = sorted(values)
    return [round(v, 3) for v in (ordered[len(ordered) // 2], ordered[0], ordered[-1])]


if __name__ == "__main__":
    print(json.dumps(measure("--quick" in sys.argv[1:])))
