"""What each further client costs a server: memory and seconds a step, on the packaged model.

    python benchmarks/network/clients.py [--steps 4] [--most 3]

A server and one to ``most`` clients as processes of this machine, each with one thread, so that
cores are shared and seconds are no more than a rough figure; memory is the peak of the server.
One JSON object a row on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from amaqctl.certs.authority import make_authority, make_party


def _prepare(folder: Path, clients: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    make_authority(folder / "certs", "server", [], 7)
    own = f"clients: [{', '.join(clients)}]\nlisten: 127.0.0.1:{port}\n"
    _write(folder, "server", "client", own)
    for name in clients:
        make_party(folder / "certs", name, [], 7)
        _write(folder, name, name, f"connect: {{server: '127.0.0.1:{port}'}}\n")


def _write(folder: Path, name: str, front: str, own: str) -> None:
    text = f"name: {name}\nholders: [{front}, server]\n{own}certificates: certs/{name}\n"
    (folder / f"{name}.yaml").write_text(text)


def measure(num_clients: int, steps: int) -> dict[str, float]:
    """One row."""
    clients = [f"client{number}" for number in range(num_clients)]
    with tempfile.TemporaryDirectory() as holder:
        folder = Path(holder)
        _prepare(folder, clients)
        asked = [f"train.max_steps={steps}", "eval={every: 1000, max_examples: 1}"]
        asked += ["checkpoint.every=1000", "transport={name: grpc}"]
        words = [word for setting in asked for word in ("--set", setting)]
        command = [sys.executable, "-m", "amaqctl", "train", "quickstart", *words, "-q"]
        server, *others = [
            subprocess.Popen(
                [*command, "--party", f"{name}.yaml", "--out", "runs"],
                cwd=folder,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for name in ("server", *clients)
        ]
        _, status, used = os.wait4(server.pid, 0)
        assert status == 0, status
        for process in others:
            assert process.wait(600) == 0
        lines = (folder / "runs" / clients[0] / "metrics.jsonl").read_text().splitlines()
        seconds = [r["seconds"] for r in map(json.loads, lines) if r["kind"] == "train"]
        means = [r["bytes"] for r in map(json.loads, lines) if r["kind"] == "average"]
        return {
            "clients": num_clients,
            "server_peak_mib": round(used.ru_maxrss / 2**10),
            "step_seconds": round(statistics.median(seconds[1:]), 3),
            "bytes_of_a_mean": means[0] if means else 0,
        }


def main() -> None:
    """Measure, a row at a time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--most", type=int, default=3)
    options = parser.parse_args()
    for num_clients in range(1, options.most + 1):
        print(json.dumps(measure(num_clients, options.steps)), flush=True)


if __name__ == "__main__":
    main()
