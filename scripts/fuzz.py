#!/usr/bin/env python
"""Hostile input for every parser, through the real command line; docs/contributing.md says more.

    scripts/fuzz.py --kinds runs traces --cases 1000 --seed 7 --jobs 2 --keep build/fuzz

Exit code 0 if every case passed, else 1.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a fork cannot make its threads
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fuzzing.campaign import main

if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="amaqctl-fuzz-cache-") as cache:
        os.environ.setdefault("AMAQCTL_CACHE", cache)
        sys.exit(main())
