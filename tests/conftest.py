"""One thread, and a cache of our own: results and speed do not depend on who else runs here."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported, and for children too: a forked child cannot make a pool of threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache() -> Iterator[None]:
    """A cache folder for this session, unless the caller named one."""
    if "AMAQCTL_CACHE" in os.environ:
        yield
        return
    # Outside of pytest's own folders: tests may look at what is left in those.
    folder = tempfile.mkdtemp(prefix="amaqctl-cache-")
    os.environ["AMAQCTL_CACHE"] = folder
    yield
    del os.environ["AMAQCTL_CACHE"]
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def usual_algorithms() -> Iterator[None]:
    """Building a profile may switch torch to deterministic algorithms; switch it back."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps with checkpoints after two and four; only read."""
    from run_files import train_four_steps

    return train_four_steps(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))
