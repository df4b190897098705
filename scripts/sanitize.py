"""Builds the codec with AddressSanitizer and UBSan and fuzzes it against plain torch.

    python scripts/sanitize.py [--seconds 20] [--seed 1]

Grids of every kind over matrices of odd sizes, each buffer just as long as it must be, so a byte
read or written beyond one ends the run. Exits with 1 when anything was found, and with 0 and a
line where there is no compiler or no sanitizer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "amaqctl" / "bits" / "codec.c"
FLAGS = ["-O1", "-g", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="amaqctl-sanitize-") as folder:
        library = Path(folder) / "_codec.so"
        compiler = os.environ.get("CC", "cc")
        try:
            built = subprocess.run(
                [compiler, *FLAGS, *SANITIZERS, str(SOURCE), "-o", str(library), "-lm"],
                capture_output=True,
                text=True,
            )
        except FileNotFoundError:
            print("sanitize: no C compiler here; nothing was checked")
            return 0
        if built.returncode:
            print(f"sanitize: not built; nothing was checked: {built.stderr.strip()[-300:]}")
            return 0
        return _fuzz(library, compiler, options.seconds, options.seed)


def _fuzz(library: Path, compiler: str, seconds: float, seed: int) -> int:
    """Run the cases in a process that has the sanitizer's own library loaded first."""
    found = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    )
    environment = {
        **os.environ,
        "LD_PRELOAD": found.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "OMP_NUM_THREADS": "1",
        "AMAQCTL_CODEC": str(library),
    }
    for kind in ("best", "avx2", "plain"):
        environment["AMAQCTL_NATIVE"] = kind
        cases = [str(ROOT / "tests" / "codec_cases.py"), str(seconds / 3), str(seed)]
        done = subprocess.run([sys.executable, *cases], env=environment, text=True)
        if done.returncode:
            print(f"sanitize: {kind}: exit code {done.returncode}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
