"""What a slow line adds to a training step of two parties on the packaged model.

    python benchmarks/network/steps.py [--steps 6] [--links 100m,10m] [--methods amaq-4] > rows.jsonl
    python benchmarks/network/steps.py --u-shape

Two processes over `grpc` with mutual TLS, the client with stage 0 and the data (in the U shape with
the last stage too). Between them stands `simulated_link`, which delays and limits bytes; every run
over a line is followed by the same run without one, so that load on the machine is in both.
The network's seconds of a step are the difference of the two medians; those of the codec are what
encoding and decoding took at both parties, one after the other. One JSON object a row on stdout.
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
from typing import Any

from simulated_link import SimulatedLink

from amaqctl.certs.authority import make_authority, make_party

_PARTY = Path(__file__).with_name("step_party.py")
# Bits a second, and seconds there and back.
LINKS: dict[str, tuple[float, float]] = {
    "10g": (10e9, 0.0),
    "1g": (1e9, 0.001),
    "100m": (100e6, 0.020),
    "10m": (10e6, 0.040),
}
_GROUP = "{name: group, options: {bits: 4, group_size: 64}}"
_NONE = "{name: none}"


def _settings(activation: str, gradient: str, dtype: str = "bfloat16") -> list[str]:
    quantizers = f"quantizers={{activation: {activation}, gradient: {gradient}}}"
    return [quantizers, f"model.dtype={dtype}"]


METHODS = {
    "none-float32": _settings(_NONE, _NONE, "float32"),
    "none-bfloat16": _settings(_NONE, _NONE),
    "group-4": _settings(_GROUP, _GROUP),
    "aq-sgd-4": _settings("{name: aq-sgd, options: {bits: 4}}", _GROUP),
    "amaq-4": _settings("{name: amaq, options: {target_bits: 4}}", _GROUP),
    "amaq-3": _settings("{name: amaq, options: {target_bits: 3}}", _GROUP),
}


class Place:
    """A folder with certificates and party files, and a port."""

    def __init__(self, folder: Path, holders: tuple[str, ...]) -> None:
        self.folder, self._holders = folder, holders
        make_authority(folder / "certs", "server", [], 7)
        make_party(folder / "certs", "client", [], 7)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._write("server", f"listen: 127.0.0.1:{self.port}")

    def dial(self, port: int) -> None:
        """Where the client finds the server."""
        self._write("client", f"connect: {{server: '127.0.0.1:{port}'}}")

    def _write(self, name: str, way: str) -> None:
        text = f"name: {name}\nholders: [{', '.join(self._holders)}]\n{way}\n"
        (self.folder / f"{name}.yaml").write_text(f"{text}certificates: certs/{name}\n")

    def run(self, out: str, settings: list[str], steps: int) -> tuple[list[dict[str, Any]], float]:
        """The records of a run's steps, and the codec's seconds a step at both parties."""
        asked = [f"train.max_steps={steps}", "eval={every: 1000, max_examples: 1}"]
        asked += ["checkpoint.every=1000", "transport={name: grpc}", *settings]
        words = [word for setting in asked for word in ("--set", setting)]
        processes = [
            subprocess.Popen(
                [sys.executable, str(_PARTY), "train", "quickstart", *words]
                + ["--party", f"{name}.yaml", "--out", out, "-q"],
                cwd=self.folder,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for name in ("server", "client")
        ]
        codec = 0.0
        for process in processes:
            told, _ = process.communicate(timeout=900)
            assert process.returncode == 0, told
            codec += float(told.splitlines()[-1])
        lines = (self.folder / out / "client" / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        return [r for r in records if r["kind"] == "train"], codec / steps


def _median(records: list[dict[str, Any]]) -> float:
    return statistics.median(r["seconds"] for r in records[1:])


def measure(place: Place, link: str, name: str, settings: list[str], steps: int) -> dict[str, Any]:
    """One row: a run over a line, and the same without."""
    rate, round_trip = LINKS[link]
    line = SimulatedLink(place.port, round_trip / 2, rate)
    place.dial(line.port)
    over, codec = place.run(f"{name}-{link}", settings, steps)
    line.close()
    place.dial(place.port)
    without, _ = place.run(f"{name}-{link}-without", settings, steps)
    num_bytes = over[-1]["wire/total_bytes"]
    return {
        "link": link,
        "method": name,
        "bytes": num_bytes,
        "bare_seconds": round(8 * num_bytes / rate, 4),
        "seconds": round(_median(over), 4),
        "without": round(_median(without), 4),
        "network_seconds": round(_median(over) - _median(without), 4),
        "codec_seconds": round(codec, 4),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Measure, a row at a time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--links", default=",".join(LINKS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--u-shape", action="store_true")
    options = parser.parse_args()
    holders = ("client", "server", "client") if options.u_shape else ("client", "server")
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), holders)
        for link in options.links.split(","):
            for name in options.methods.split(","):
                tries = {name: METHODS[name]}
                if options.u_shape:
                    cut = [*METHODS[name], "split.cuts=[5, 25]"]
                    tries = {
                        f"{name}, {n} micro-batches": [*cut, f"train.micro_batches={n}"]
                        for n in (1, 4)
                    }
                for title, settings in tries.items():
                    row = measure(place, link, title.replace(", ", "-"), settings, options.steps)
                    if options.u_shape:  # four messages after one another
                        row["bare_seconds"] = round(row["bare_seconds"] + 2 * LINKS[link][1], 4)
                        row["visible"] = round(row["network_seconds"] / row["bare_seconds"], 3)
                    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
