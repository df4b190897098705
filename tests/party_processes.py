"""Parties as processes of their own: whole commands, one after the other, in each of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from installed_plugins import install
from safetensors.torch import load_file
from transport_parts import free_port
from typer.testing import CliRunner

from amaqctl.cli.main import app

PROGRAM = """
import json, os, sys
from typer.testing import CliRunner
from amaqctl.cli.main import app
exec(os.environ.get("PRELUDE", ""))  # what makes a party a bad one
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, words)
    print(json.dumps([result.exit_code, result.stdout, result.stderr]), flush=True)
"""
HOLDERS = ("client", "server", "client")
PROFILE = """\
amaqctl: 1
model: {id: tiny, dtype: float32}
split: {cuts: [2, 6]}
lora: {dropout: 0.1}
transport: {name: grpc, options: {silence_seconds: 1.0, lease_seconds: 20.0}}
task: {name: prompt-completion, options: {train: d.jsonl, validation: 0.2}}
train: {max_steps: 4, batch_size: 4, micro_batches: 2, max_length: 64, max_grad_norm: 0.01}
optimizer: {lr: 0.01}
eval: {every: 2, max_examples: 4}
checkpoint: {every: 2}
"""


def prepare(folder: Path) -> None:
    """Certificates, a party file for each, a profile, data, and a quantizer of a stranger."""
    (folder / "site").mkdir()
    points = {"amaqctl.quantizers": {"delta": "compositions:Delta"}}
    install(folder / "site", "acme-delta", {}, points)
    rows = [{"prompt": f"Q {i}?", "completion": f"A {i % 3}."} for i in range(30)]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "p.yaml").write_text(PROFILE)
    certificates = str(folder / "certs")
    for words in (["init"], ["client", "client"]):
        result = CliRunner().invoke(app, ["certs", *words, "--dir", certificates, "-q"])
        assert result.exit_code == 0, result.output
    port = free_port()
    for name, place in (
        ("client", f"connect: {{server: '127.0.0.1:{port}'}}"),
        ("server", f"listen: 127.0.0.1:{port}"),
    ):
        (folder / f"{name}.yaml").write_text(
            f"name: {name}\nholders: [{', '.join(HOLDERS)}]\n{place}\ncertificates: certs/{name}\n"
        )
    (folder / "all.yaml").write_text("holders: [client, server, other]\n")


def start(folder: Path, commands: Sequence[Sequence[str]], **more: str) -> subprocess.Popen[str]:
    """A process that runs commands in ``folder``, one after the other."""
    path = [str(folder / "site"), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, json.dumps([list(map(str, c)) for c in commands])],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)} | more,
    )


def ended(process: subprocess.Popen[str]) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each command."""
    out, err = process.communicate(timeout=240)
    found = [tuple(json.loads(line)) for line in out.splitlines() if line.startswith("[")]
    assert found, err
    return found


def outcome(*runs: Path) -> dict[str, Any]:
    """What a run came to, put together from the run folders of its parties, the leader's first."""
    adapter: dict[str, bytes] = {}
    states: dict[str, bytes] = {}
    widths: dict[str, list[int]] = {}
    for run in runs:
        trained = run / "adapter" / "adapter_model.safetensors"
        if not trained.exists():
            trained = run / "weights" / "weights.safetensors"
        for found, path in (
            (adapter, trained),
            (states, run / "quantizer" / "quantizer.safetensors"),
        ):
            found |= {name: _bytes_of(values) for name, values in load_file(path).items()}
        with np.load(run / "bits" / "final.npz") as archive:
            widths |= {n: archive[n].tolist() for n in archive.files if n != "report"}
    return {"adapter": adapter, "states": states, "widths": widths, "metrics": metrics(runs[0])}


def metrics(run: Path) -> dict[tuple[str, int], Mapping[str, Any]]:
    """The records of a run but for times, by kind and step; where it was resumed is left out."""
    told = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] != "resume":
            own = ("time", "seconds", "peak_memory_mib")
            told[record["kind"], record["step"]] = {
                key: value for key, value in record.items() if key not in own
            }
    return told


def _bytes_of(values: torch.Tensor) -> bytes:
    return values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
