"""Every part that `doctor` looks at, each on its own: one that fails is a line of the report."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from amaqctl.errors import AmaqError, Interrupted
from amaqctl.extras import networking
from amaqctl.health import installation
from amaqctl.health.installation import Finding, State

if TYPE_CHECKING:
    from amaqctl.certs.inspection import CertificateFacts

_TINY = ["model.id=tiny", "model.dtype=float32", "split.cuts=[3]", "train.max_steps=2"]
_TINY += ["train.batch_size=2", "train.max_length=64", "eval.max_examples=2", "eval.every=2"]


def examine(
    stdout: TextIO,
    is_strict: bool,
    note: Callable[[str], None],
    certificates: Path | None = None,
) -> Iterator[Finding]:
    """Look at one part after the other.

    Args:
        stdout: the stream whose terminal is described.
        is_strict: whether every plugin is loaded too.
        note: told what takes long.
        certificates: folder of a party's certificates, if they are to be looked at.

    Raises:
        Interrupted: a signal came during training.
    """
    looks: dict[str, Callable[[], list[Finding]]] = {
        "installation": installation.packages,
        "extras": installation.extras,
        "torch build": torch_build,
        "codec": codec,
        "cache": installation.cache,
        "model": installation.packaged_model,
        "disk": lambda: installation.disk(Path("runs")),
        "terminal": lambda: installation.terminal(stdout),
        "plugins": lambda: installation.plugins(is_loading=is_strict),
        "certificates": lambda: certificates_in(certificates),
        "training": two_steps,
    }
    for name, look in looks.items():
        if name == "training":
            note("training two steps on the tiny model …")
        yield from _found(name, look)


def _found(name: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except Interrupted:
        raise
    except AmaqError as error:
        return [Finding(name, State.fault, str(error), hint=error.hint)]
    # A broken installation raises anything, from ImportError up; that is what is looked for here.
    except Exception as error:
        return [Finding(name, State.fault, f"{type(error).__name__}: {error}")]


def certificates_in(folder: Path | None) -> list[Finding]:
    """What each certificate of a folder is for and when it ends; nothing where none is asked."""
    if folder is None:
        return []
    networking("cryptography", "doctor --certificates")
    from amaqctl.certs.inspection import inspect_folder

    return [_certificate(facts) for facts in inspect_folder(folder)]


def _certificate(facts: CertificateFacts) -> Finding:
    data = {"file": facts.path, "expires": facts.expires.isoformat(), "sha256": facts.fingerprint}
    state = State.warning if facts.warnings else State.ok
    if facts.expires < datetime.now(UTC):
        state = State.fault
    text = "; ".join(facts.warnings) or f"{facts.path} expires on {facts.expires:%Y-%m-%d}"
    hint = "make a new one with `amaqctl certs`" if state is State.fault else None
    return Finding(f"certificate {facts.name}", state, text, hint, data)


def torch_build() -> list[Finding]:
    """Version, threads, and what computes: the one look that has to import torch."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    built_for = torch.version.cuda
    data = {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda_build": built_for,
        "cuda_devices": torch.cuda.device_count() if gpu else 0,
        "cuda_device": gpu,
    }
    where = f"CUDA {built_for}, {gpu}" if gpu else "CPU only"
    text = f"{torch.__version__}, {data['threads']} threads, {where}"
    if built_for and not gpu:
        hint = "check the driver with nvidia-smi"
        return [Finding("torch build", State.warning, f"{text}; built for CUDA", hint, data)]
    return [Finding("torch build", State.ok, text, data=data)]


def codec() -> list[Finding]:
    """Which implementation packs and unpacks, and why."""
    from amaqctl.bits import library

    is_native = library.loaded() is not None
    text = f"compiled, {library.state()}" if is_native else library.state()
    hint = (
        None
        if is_native
        else "install a C compiler, then amaqctl again: it is several times faster"
    )
    if os.environ.get("AMAQCTL_NATIVE") == "0":
        hint = None
    state = State.ok if is_native or hint is None else State.warning
    return [Finding("codec", state, text, hint, {"compiled": is_native})]


class _Silent:
    """A reporter that says nothing."""

    def on_start(self, first_step: int, max_steps: int) -> None:
        """Say nothing."""

    def on_step(self, record: object) -> None:
        """Say nothing."""

    def on_evaluation(self, record: object) -> None:
        """Say nothing."""

    def on_save(self, step: int, folder: Path) -> None:
        """Say nothing."""


def two_steps() -> list[Finding]:
    """Train two steps of the quick-start profile on the tiny model, in a folder that is deleted."""
    from amaqctl import build, runs
    from amaqctl.profile import load_profile

    with tempfile.TemporaryDirectory(prefix="amaqctl-doctor-") as folder:
        built = build.build(load_profile("quickstart", _TINY))
        run = runs.new_run(built, Path(folder) / "run", None)
        result = built.trainer(run, _Silent()).train()
        num_files = sum(path.is_file() for path in run.path.rglob("*"))
    data = {key: result[key] for key in ("steps", "loss_before", "loss_after", "wire_bytes")}
    text = f"{result['steps']} steps, {result['wire_bytes']} bytes sent, {num_files} files written"
    return [Finding("training", State.ok, text, data={**data, "platform": sys.platform})]
