"""What the transports cost by themselves, on this machine: round trips, four messages in flight
over a simulated line, and how soon a peer's death is noticed.

    python benchmarks/network/transports.py [--rounds 200] [--deaths 5]

Every figure is the median; of deaths, the longest. The long line is simulated (`simulated_link`).
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from parties import BACK, THERE, UNARY, credentials, over_gloo, over_grpc
from simulated_link import SimulatedLink

from amaqctl.certs.authority import make_authority, make_party
from amaqctl.transports.connection_state import PeerStatus
from amaqctl.transports.routed import RoutedTransport

_PARTIES = Path(__file__).with_name("parties.py")
_SIZES = {"1 kB": 1_000, "100 kB": 100_000, "4 MB": 4_000_000, "30 MB": 30_000_000}
_FOUR = 4 * [bytes(40_000)]
_RTT_SECONDS, _BITS_PER_SECOND = 0.020, 100e6

Exchange = Callable[[list[bytes]], None]


class Statuses:
    """When the peer was in which state."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    def __call__(self, status: PeerStatus) -> None:
        self.times[status.state] = time.perf_counter()

    def seconds_until(self, state: str, since: float) -> float:
        """Wait for a state."""
        while self.times.get(state, 0.0) < since:
            time.sleep(0.001)
        return self.times[state] - since


@contextmanager
def other_side(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that sends back whatever comes."""
    process = subprocess.Popen(
        [sys.executable, str(_PARTIES), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def port_of(process: subprocess.Popen[str]) -> int:
    """The port that it prints."""
    assert process.stdout is not None
    return int(process.stdout.readline())


def exchange_over(transport: RoutedTransport) -> Exchange:
    """Send all, then wait for all to come back."""

    def exchange(messages: list[bytes]) -> None:
        for data in messages:
            transport.send(THERE, data)
        for data in messages:
            assert len(transport.receive(BACK)) == len(data)

    return exchange


@contextmanager
def unary_calls(certificates: Path, port: int) -> Iterator[Exchange]:
    """One call after the other."""
    authority, key, certificate = credentials(certificates, "client")
    options = [("grpc.ssl_target_name_override", "server")]
    options += [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    own = grpc.ssl_channel_credentials(authority, key, certificate)
    with grpc.secure_channel(f"127.0.0.1:{port}", own, options) as channel:
        call = channel.unary_unary(UNARY)

        def exchange(messages: list[bytes]) -> None:
            for data in messages:
                call(data)

        yield exchange


def milliseconds(exchange: Exchange, messages: list[bytes], rounds: int) -> float:
    """Median of one exchange, after two that do not count."""
    times = []
    for number in range(rounds + 2):
        start = time.perf_counter()
        exchange(messages)
        if number >= 2:
            times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def round_trips(exchange: Exchange, rounds: int) -> list[str]:
    """A column of the table: each size there and back."""
    return [
        f"{milliseconds(exchange, [bytes(n)], max(rounds * 100_000 // max(n, 100_000), 10)):.2f}"
        for n in _SIZES.values()
    ]


def measure_grpc(certificates: Path, rounds: int) -> tuple[list[str], str]:
    """Round trips, and four messages over the simulated line."""
    with other_side("grpc", str(certificates)) as process:
        port = port_of(process)
        place = {"server": f"127.0.0.1:{port}"}
        transport = over_grpc("client", certificates, connect=place)
        trips = round_trips(exchange_over(transport), rounds)
        transport.close()
    with other_side("grpc", str(certificates)) as process:
        link = SimulatedLink(port_of(process), _RTT_SECONDS / 2, _BITS_PER_SECOND)
        place = {"server": f"127.0.0.1:{link.port}"}
        transport = over_grpc("client", certificates, connect=place)
        four = milliseconds(exchange_over(transport), _FOUR, rounds // 4)
        transport.close()
        link.close()
    return trips, f"{four:.1f}"


def measure_unary(certificates: Path, rounds: int) -> tuple[list[str], str]:
    """The same by calls in turn."""
    with other_side("unary", str(certificates)) as process:
        port = port_of(process)
        with unary_calls(certificates, port) as exchange:
            trips = round_trips(exchange, rounds)
        link = SimulatedLink(port, _RTT_SECONDS / 2, _BITS_PER_SECOND)
        with unary_calls(certificates, link.port) as exchange:
            four = milliseconds(exchange, _FOUR, rounds // 4)
        link.close()
    return trips, f"{four:.1f}"


def rendezvous(rank: int) -> dict[str, str]:
    """The environment of one of two processes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = os.environ.get("MASTER_PORT", str(found.getsockname()[1]))
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": str(rank)}


def measure_gloo(rounds: int) -> list[str]:
    """Round trips under gloo."""
    os.environ.update(rendezvous(0))
    with other_side("distributed", **rendezvous(1)):
        transport = over_gloo("client")
        trips = round_trips(exchange_over(transport), rounds)
        transport.close()
    return trips


def deaths_over_grpc(certificates: Path, how: str, times: int) -> float:
    """Longest time until the other side is held to be cut off."""
    longest = 0.0
    for _ in range(times):
        statuses = Statuses()
        with other_side("grpc", str(certificates)) as process:
            link = SimulatedLink(port_of(process), 0.0, 0.0)
            place = {"server": f"127.0.0.1:{link.port}"}
            transport = over_grpc("client", certificates, statuses, 0.1, connect=place)
            exchange_over(transport)([b"x"])
            start = time.perf_counter()
            if how == "silent network":
                link.is_passing = False
            else:
                process.send_signal(getattr(signal, how))
            longest = max(longest, statuses.seconds_until("held", start))
            link.close()
        transport.close()
    return longest


def death_over_gloo() -> float:
    """Time until a killed peer is lost; once, since a process has one group."""
    statuses = Statuses()
    with other_side("distributed", **rendezvous(1)) as process:
        transport = over_gloo("client", statuses)
        exchange_over(transport)([b"x"])
        start = time.perf_counter()
        process.kill()
        seconds = statuses.seconds_until("lost", start)
    transport.close()
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--deaths", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as holder:
        certificates = Path(holder) / "certs"
        make_authority(certificates, "server", [], 1)
        make_party(certificates, "client", [], 1)
        grpc_trips, grpc_four = measure_grpc(certificates, asked.rounds)
        unary_trips, unary_four = measure_unary(certificates, asked.rounds)
        gloo_trips = measure_gloo(asked.rounds)
        print("| milliseconds, median | `grpc` | gRPC calls in turn | `distributed` |")
        print("|---|---|---|---|")
        rows = zip(_SIZES, grpc_trips, unary_trips, gloo_trips, strict=True)
        for name, *cells in rows:
            print(f"| {name} there and back | {' | '.join(cells)} |")
        line = f"4 x 40 kB over {_BITS_PER_SECOND / 1e6:.0f} Mbit/s, {_RTT_SECONDS * 1e3:.0f} ms"
        print(f"| {line} (simulated) | {grpc_four} | {unary_four} | – |")
        print()
        print("| death noticed after, seconds, longest | `grpc` | `distributed` |")
        print("|---|---|---|")
        found = {
            how: deaths_over_grpc(certificates, how, asked.deaths)
            for how in ("SIGKILL", "SIGSTOP", "silent network")
        }
        cells = {how: f"{seconds:.2f}" for how, seconds in found.items()}
        print(f"| SIGKILL | {cells['SIGKILL']} | {death_over_gloo():.2f} |")
        for how in ("SIGSTOP", "silent network"):
            print(f"| {how} | {cells[how]} | – |")


if __name__ == "__main__":
    main()
