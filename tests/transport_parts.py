"""What tests of transports between machines share: certificates, a relay that cuts, processes."""

import contextlib
import random
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from amaqctl.transports.connection_state import PeerStatus
from amaqctl.transports.party_settings import PartySettings, TrafficLimits
from amaqctl.transports.transport import Address

HOLDERS = ("client", "server", "client")
THERE, BACK = Address(0, "activation"), Address(0, "gradient")
ORDER, REPLY = Address(1, "order"), Address(1, "reply")
LIMITS = TrafficLimits(40 * 2**20, 400)
QUICK = {"silence_seconds": 1.0, "lease_seconds": 20.0, "timeout_seconds": 60.0}


class Told(list):
    """Collects statuses; can be waited on."""

    def __init__(self):
        super().__init__()
        self._change = threading.Condition()

    def __call__(self, status: PeerStatus) -> None:
        with self._change:
            self.append((str(status.state), status.text))
            self._change.notify_all()

    def wait_for(self, state, seconds=30):
        """Wait until ``state`` was told."""
        with self._change:
            found = self._change.wait_for(lambda: state in [s for s, _ in self], seconds)
        assert found, f"never {state}: {list(self)}"

    @property
    def states(self):
        return [state for state, _ in self]


def grpc_party(certificates: Path, name: str, *, told=None, limits=LIMITS, config=None, **own):
    """A party of `HOLDERS` over gRPC; ``certificates`` is the folder of `amaqctl certs`."""
    from amaqctl.transports.grpc_stream import GrpcTransport

    settings = {"holders": HOLDERS, "certificates": certificates / name} | own
    return GrpcTransport(
        GrpcTransport.Config(**(QUICK | (config or {}))),
        PartySettings(name=name, **settings),
        limits,
        told if told is not None else Told(),
    )


def close_both(*transports):
    """Close transports of one process at the same time, as parties do."""
    threads = [threading.Thread(target=t.close) for t in transports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Relay:
    """Passes bytes between whoever connects to it and ``port``; cuts, and stops passing, at will.

    Args:
        cut_after: lengths drawn for the connections, in bytes of both directions together; a
            connection that has passed as many is cut in the middle of whatever it is.
    """

    def __init__(self, port: int, cut_after=None, seed: int = 0) -> None:
        self._target = ("127.0.0.1", port)
        self._cut_after, self._chance = cut_after, random.Random(seed)
        self._is_over = False
        self.is_passing = True
        self.num_cuts = 0
        self._open: set[socket.socket] = set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def cut(self) -> None:
        """Cut what is open."""
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Cut, and listen no more."""
        self._is_over = True
        self._listening.close()
        self.cut()

    def _listen(self) -> None:
        while not self._is_over:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target, 5)
            except OSError:
                near.close()
                continue
            self._open |= {near, far}
            left = [self._chance.randrange(*self._cut_after)] if self._cut_after else None
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(*pair, left), daemon=True).start()

    def _pass(self, source, target, left) -> None:
        try:
            while data := source.recv(65536):
                while not self.is_passing and not self._is_over:
                    time.sleep(0.01)
                if left is not None and left[0] <= len(data):
                    target.sendall(data[: max(left[0], 0)])
                    self.num_cuts += left[0] > 0
                    left[0] = 0
                    break
                if left is not None:
                    left[0] -= len(data)
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            self._open.discard(end)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def start_python(program: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """A process that runs ``program`` with the folder of the tests on its path."""
    import os

    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path} | environment,
    )
