"""Training steps of two parties over shaped lines: what of a step is network, codec, compute.

    python benchmarks/network/steps.py FILE [--repeats 3] [--only WAY,…]
    python benchmarks/network/steps_report.py FILE

Two processes over `grpc` with mutual TLS train the profile `quickstart` with one thread each, in
network namespaces of their own (Linux, root), with TCP from end to end. The line of packets between
them (`tun_link`) changes under them between two steps. FILE gets a line of JSON a step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tun_link import TunLink

from amaqctl.certs.authority import make_authority, make_party
from amaqctl.tasks.python_docs import read_topics

_PARTY = Path(__file__).with_name("training_party.py")
_PORT = 7700
_PARTIES = ("client", "server")
_NUM_WARM_STEPS = 1

LINES = {
    "unshaped": (0.0, 0.0),
    "10 Gbit": (0.0, 10e9),
    "1 Gbit, 1 ms": (1e-3, 1e9),
    "100 Mbit, 20 ms": (20e-3, 100e6),
    "10 Mbit, 40 ms": (40e-3, 10e6),
}
"""Round trip in seconds, bits a second of each direction; 0 bits: no limit."""

_NONE = ("{name: none}", "{name: none}")
_GROUP = "{name: group, options: {bits: 4, group_size: 64}}"


@dataclass(frozen=True)
class Way:
    """One way to train: quantizers of activations and gradients, and how the model is cut."""

    activation: str
    gradient: str
    cuts: str = "[5]"
    holders: str = "[client, server]"
    micro_batches: int = 1
    lines: Sequence[str] = field(default_factory=lambda: list(LINES))

    @property
    def settings(self) -> list[str]:
        """For `--set`."""
        return [
            f"quantizers.activation={self.activation}",
            f"quantizers.gradient={self.gradient}",
            f"split.cuts={self.cuts}",
            f"train.micro_batches={self.micro_batches}",
        ]


def _amaq(bits: int) -> str:
    return f"{{name: amaq, options: {{target_bits: {bits}}}}}"


def _u_shape(activation: str, gradient: str, micro_batches: int) -> Way:
    lines = ["unshaped", "100 Mbit, 20 ms", "10 Mbit, 40 ms"]
    return Way(activation, gradient, "[5, 25]", "[client, server, client]", micro_batches, lines)


WAYS = {
    "none": Way(*_NONE),
    "group-4": Way(_GROUP, _GROUP),
    "aq-sgd-4": Way("{name: aq-sgd, options: {bits: 4}}", _GROUP),
    "amaq-4": Way(_amaq(4), _GROUP),
    "amaq-3": Way(_amaq(3), _GROUP),
    "u-none-1": _u_shape(*_NONE, 1),
    "u-none-4": _u_shape(*_NONE, 4),
    "u-amaq-4-1": _u_shape(_amaq(4), _GROUP, 1),
    "u-amaq-4-4": _u_shape(_amaq(4), _GROUP, 4),
}


def prepare(folder: Path, way: Way, server_address: str) -> None:
    """Certificates, party files and eight texts, so that `aq-sgd` soon meets each again."""
    make_authority(folder / "certs", "server", [], 1)
    make_party(folder / "certs", "client", [], 1)
    for name, place in (
        ("client", f"connect: {{server: '{server_address}:{_PORT}'}}"),
        ("server", f"listen: {server_address}:{_PORT}"),
    ):
        (folder / f"{name}.yaml").write_text(
            f"name: {name}\nholders: {way.holders}\n{place}\ncertificates: certs/{name}\n"
        )
    topics = read_topics()
    (folder / "texts.txt").write_text("\n".join(topics[name] for name in sorted(topics)[:30]))


def start(folder: Path, name: str, way: Way, num_steps: int, namespace: str) -> Any:
    """A party as a process of one thread."""
    settings = [
        *way.settings,
        "transport={name: grpc}",
        "task={name: text, options: {train: texts.txt, train_limit: 8, validation_limit: 4}}",
        f"train.max_steps={num_steps}",
        "eval.every=1000",
        "eval.max_examples=4",
        "checkpoint.every=1000",
    ]
    words = ["ip", "netns", "exec", namespace, sys.executable, str(_PARTY), f"{name}.json"]
    words += ["train", "quickstart", "--party", f"{name}.yaml", "--out", "run", "--quiet"]
    for setting in settings:
        words += ["--set", setting]
    return subprocess.Popen(
        words,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(folder / f"{name}.err").open("w"),
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def run(name: str, rotation: int, num_steps: int) -> Iterator[dict[str, Any]]:
    """Train in one way over every line; a record for each step that counts.

    Args:
        rotation: which line comes first.
        num_steps: over each line; the first does not count.
    """
    way = WAYS[name]
    rotation %= len(way.lines)
    lines = [*way.lines[rotation:], *way.lines[:rotation]]
    plan = ["unshaped"] * _NUM_WARM_STEPS + [line for line in lines for _ in range(num_steps)]
    with tempfile.TemporaryDirectory() as holder, closing(TunLink(str(os.getpid()))) as link:
        folder = Path(holder)
        prepare(folder, way, link.addresses[1])
        client, server = (
            start(folder, party, way, len(plan), namespace)
            for party, namespace in zip(_PARTIES, link.namespaces, strict=True)
        )
        try:
            for line in plan:
                if client.stdout.readline() != "ready\n":
                    sys.exit((folder / "client.err").read_text())
                seconds, rate = LINES[line]
                link.shape(seconds / 2, rate)
                time.sleep(0.1)  # what is under way arrives
                client.stdin.write("\n")
                client.stdin.flush()
            client.stdout.readline()
            link.shape(0.0, 0.0)
            for process in (client, server):
                process.wait(timeout=120)
        finally:
            for process in (client, server):
                process.kill()
                process.wait()
        events = [json.loads((folder / f"{party}.json").read_text()) for party in _PARTIES]
    for step, line in enumerate(plan):
        counts = step > _NUM_WARM_STEPS and (step - _NUM_WARM_STEPS) % num_steps
        if counts:
            yield {
                "way": name,
                "line": line,
                "load": os.getloadavg()[0],
                "peak_mib": [party["peak_mib"] for party in events],
                **split(events, step),
            }


def split(events: list[dict[str, Any]], step: int) -> dict[str, float]:
    """Where the time of one step went.

    Network is the time in which both parties wait; codec and compute are processor's seconds of
    both, so that other programs on the machine are not in them.
    """
    begin, _, end, _ = events[0]["steps"][step]
    waits = [_within(party["waits"], begin, end) for party in events]
    codec = [call for party in events for call in party["codec"] if begin <= call[0] < end]
    codec_seconds = sum(call[3] - call[1] for call in codec)
    busy = [_processor_at(party, end) - _processor_at(party, begin) for party in events]
    sent = [size for party in events for at, size in party["sent"] if begin <= at < end]
    return {
        "seconds": end - begin,
        "network": _common(*waits),
        "codec": codec_seconds,
        "compute": sum(busy) - codec_seconds,
        "server": busy[1],
        "bytes": sum(sent),
    }


def _within(calls: list[list[float]], begin: float, end: float) -> list[tuple[float, float]]:
    return [(max(a, begin), min(b, end)) for a, _, b, _ in calls if a < end and b > begin]


def _common(first: list[tuple[float, float]], second: list[tuple[float, float]]) -> float:
    return sum(max(min(b, d) - max(a, c), 0.0) for a, b in first for c, d in second)


def _processor_at(party: dict[str, Any], at: float) -> float:
    """The processor's seconds of a party at a time, as of its last wait or step before."""
    calls = [*party["waits"], *party["steps"]]
    known = [(when, spent) for a, b, c, d in calls for when, spent in ((a, b), (c, d))]
    return max((spent for when, spent in known if when <= at), default=0.0)


def main() -> None:
    """Measure, and write down each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="over a line, the first dropped")
    parser.add_argument("--only", help="ways, with commas between: " + ", ".join(WAYS))
    asked = parser.parse_args()
    for repeat in range(asked.repeats):
        for name in asked.only.split(",") if asked.only else WAYS:
            for record in run(name, repeat, asked.steps):
                record |= {"repeat": repeat}
                with asked.file.open("a") as out:
                    out.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
