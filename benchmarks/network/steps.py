"""What a slow line adds to a training step of two parties on the packaged model.

    python benchmarks/network/steps.py [--steps 6] [--links 100m,10m] [--methods amaq-4]
    python benchmarks/network/steps.py --u-shape

Two processes over `grpc` with mutual TLS, the client with stage 0 and the data (in the U shape with
the last stage too). Between them stands `simulated_link`, which delays and limits bytes.

The network's seconds of a step are those in which neither party computes, which is right where
nothing overlaps: one micro-batch. In the U shape, whose point is overlap, every run over a line is
followed by the same run without one, and the difference of their steps is what of the wire is
visible. Medians over the steps but the first; the codec's seconds are of both parties together, and
part of computing. One JSON object a row on stdout.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Steps:
    """What a run told.

    Args:
        seconds: of each step at the client.
        busy: seconds of each step in which a party computed, both added up.
        codec: seconds a step of encoding and decoding, both added up.
        num_bytes: of tensors in the last step.
    """

    seconds: list[float]
    busy: list[float]
    codec: float
    num_bytes: int

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds[1:])

    @property
    def median_idle(self) -> float:
        """Seconds of a step in which nobody computes."""
        both = list(zip(self.seconds, self.busy, strict=True))[1:]
        return statistics.median(seconds - busy for seconds, busy in both)


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

    def run(self, out: str, settings: list[str], steps: int) -> Steps:
        """Train a few steps."""
        asked = [f"train.max_steps={steps}", "eval={every: 1000, max_examples: 1}"]
        asked += ["checkpoint.every=1000", "transport={name: grpc}", *settings]
        words = [word for setting in asked for word in ("--set", setting)]
        command = [sys.executable, str(_PARTY), "train", "quickstart", *words]
        processes = [
            subprocess.Popen(
                [*command, "--party", f"{name}.yaml", "--out", out, "-q"],
                cwd=self.folder,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for name in ("server", "client")
        ]
        spent = []
        for process in processes:
            told, _ = process.communicate(timeout=900)
            assert process.returncode == 0, told
            spent.append(json.loads(told.splitlines()[-1]))
        lines = (self.folder / out / "client" / "metrics.jsonl").read_text().splitlines()
        records = [r for r in map(json.loads, lines) if r["kind"] == "train"]
        busy = [sum(pair) for pair in zip(*(party["busy"] for party in spent), strict=True)]
        return Steps(
            [r["seconds"] for r in records],
            busy,
            sum(party["codec"] for party in spent) / steps,
            records[-1]["wire/total_bytes"],
        )


def measure(place: Place, link: str, name: str, settings: list[str], steps: int) -> dict[str, Any]:
    """One row of a run over a line."""
    rate, round_trip = LINKS[link]
    line = SimulatedLink(place.port, round_trip / 2, rate)
    place.dial(line.port)
    over = place.run(f"{name}-{link}", settings, steps)
    line.close()
    return {
        "link": link,
        "method": name,
        "bytes": over.num_bytes,
        "wire_seconds": round(8 * over.num_bytes / rate, 4),
        "step_seconds": round(over.median, 4),
        "network_seconds": round(over.median_idle, 4),
        "codec_seconds": round(over.codec, 4),
        "load": round(os.getloadavg()[0], 1),
    }


def measure_overlap(
    place: Place, link: str, name: str, settings: list[str], steps: int
) -> dict[str, Any]:
    """One row of the U shape: how much of the wire a step shows."""
    row = measure(place, link, name, settings, steps)
    place.dial(place.port)
    without = place.run(f"{name}-{link}-without", settings, steps)
    # Two messages there and two back, one after another, if nothing overlapped.
    bare = row["wire_seconds"] + 2 * LINKS[link][1]
    visible = row["step_seconds"] - without.median
    return {
        **{key: row[key] for key in ("link", "method", "bytes", "step_seconds", "load")},
        "without": round(without.median, 4),
        "bare_seconds": round(bare, 4),
        "visible": round(visible / bare, 3),
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
        for link, name in itertools.product(options.links.split(","), options.methods.split(",")):
            if not options.u_shape:
                row = measure(place, link, name, METHODS[name], options.steps)
                print(json.dumps(row), flush=True)
                continue
            for number in (1, 4):
                more = ["split.cuts=[5, 25]", f"train.micro_batches={number}"]
                settings = [*METHODS[name], *more]
                title = f"{name}-x{number}"
                print(
                    json.dumps(measure_overlap(place, link, title, settings, options.steps)),
                    flush=True,
                )


if __name__ == "__main__":
    main()
