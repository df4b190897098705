"""The speed benchmark: measure the parts, keep the record, renew the page.

    python benchmarks/speed/run.py [--quick] [--only codec peers step startup growth]

Writes benchmarks/speed/records.json and the tables of docs/performance.md; parts that are not
measured keep what the record has. With --quick (tiny shapes, few rounds) the record goes to stdout
or --records, and no page is touched unless --page names it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tables

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KEPT = HERE / "records.json"
PAGE = ROOT / "docs" / "performance.md"
PARTS = ("codec", "peers", "step", "startup", "growth")
BOTH = frozenset({"codec", "peers", "growth"})
"""Parts that are measured with each implementation, in one process each."""

SEED = 20240  # of inputs.py, which needs torch
_VERSIONS = (
    "amaqctl",
    "torch",
    "numpy",
    "transformers",
    "peft",
    "bitsandbytes",
    "torchao",
    "zstandard",
)


def implementations() -> dict[str, str]:
    """`AMAQCTL_NATIVE` for each implementation of the codec that this tree has."""
    package = find_spec("amaqctl")
    assert package is not None, "amaqctl is not installed"
    assert package.origin is not None
    if (Path(package.origin).parent / "bits" / "native.py").exists():
        return {"native": "1", "torch": "0"}
    return {"torch": "0"}


def environment() -> dict[str, Any]:
    """What the figures depend on."""
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--", "amaqctl")),
        "seed": SEED,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": [round(v, 1) for v in os.getloadavg()],
        "versions": found,
    }


def measured(part: str, quick: bool) -> dict[str, Any]:
    """A part of the record, by implementation where it has several."""
    if part not in BOTH:
        return {"environment": environment(), **_run(part, quick, {})}
    # Threads of torch and of the peers' libraries: one.
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    made: dict[str, Any] = {"environment": environment()}
    for name, switch in implementations().items():
        made[name] = _run(part, quick, {**one_thread, "AMAQCTL_NATIVE": switch})
    return made


def _run(part: str, quick: bool, variables: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, str(HERE / f"{part}.py"), *(["--quick"] if quick else [])]
    print(f"== {part} {variables.get('AMAQCTL_NATIVE', '')}".rstrip(), file=sys.stderr, flush=True)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, text=True, env={**os.environ, **variables}
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    """Measure, keep, render."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny shapes, few rounds")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS, help="none: render only")
    parser.add_argument("--records", type=Path, help="file of the record")
    parser.add_argument("--page", type=Path, help="page whose tables are renewed")
    arguments = parser.parse_args()
    records = arguments.records or (None if arguments.quick else KEPT)
    page = arguments.page or (None if arguments.quick else PAGE)
    record: dict[str, Any] = {}
    if records and records.exists():
        record = json.loads(records.read_text(encoding="utf-8"))
    for part in arguments.only:
        record[part] = measured(part, arguments.quick)
        if records:  # after each part, so that an interrupted run keeps what it has
            records.write_text(tables.compact(record), encoding="utf-8")
    if not records:
        print(tables.compact(record), end="")
    if page:
        text = page.read_text(encoding="utf-8")
        page.write_text(tables.renewed(text, record), encoding="utf-8")


if __name__ == "__main__":
    main()
