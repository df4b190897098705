"""Broken frames over real TLS, from a peer that has a certificate and is on the list.

The one who listens may end the session and say why; nothing else of it may change, no thread of
it may die, and the next session begins as if nothing had been.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import threading
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import grpc
from transport_parts import THERE, grpc_party

from amaqctl.certs.authority import make_authority, make_party
from amaqctl.errors import PeerError
from amaqctl.transports.frames import Opening
from amaqctl.transports.party_settings import TrafficLimits
from fuzzing.runner import Check
from fuzzing.sessions import broken, broken_stream

_HASTY = {"silence_seconds": 0.4, "lease_seconds": 0.05}
_LIMITS = TrafficLimits(2**19, 12)
_FORESEEN = ("OK", "INVALID_ARGUMENT", "PERMISSION_DENIED", "FAILED_PRECONDITION", "ABORTED")
_FORESEEN += ("RESOURCE_EXHAUSTED", "CANCELLED")


def cases(seed: int) -> Iterator[Check]:
    """Checks without end."""
    draw = random.Random(seed)
    while True:
        frames, what = broken_stream(draw)
        opening = Opening("client", draw.randbytes(16), 0).to_bytes()
        if draw.random() < 0.2:
            opening, what = broken(draw, opening)
        yield Check(f"stream: {what}", partial(_stream, [opening, *frames[:50]]))


@cache
def _certificates() -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    holder = tempfile.TemporaryDirectory(prefix="amaqctl-streams-")
    folder = Path(holder.name) / "certs"
    make_authority(folder, "server", [], 30)
    make_party(folder, "client", [], 30)
    return folder, holder


def _stream(frames: list[bytes]) -> str:
    """Send the frames to a listening party; the word for how the stream ended.

    Raises:
        AssertionError: something happened that nobody foresaw.
    """
    died: list[str] = []
    before, threading.excepthook = threading.excepthook, lambda a: died.append(repr(a.exc_value))
    folder, _ = _certificates()
    server = grpc_party(folder, "server", listen="127.0.0.1:0", limits=_LIMITS, config=_HASTY)
    try:
        code = _send(folder, server.port, frames)
        assert code in _FORESEEN, code
        with contextlib.suppress(PeerError):
            server.receive(THERE, 0.0)
    finally:
        server.close()
        threading.excepthook = before
    assert not died, died
    return code


def _send(folder: Path, port: int | None, frames: list[bytes]) -> str:
    own = [
        (folder / "client" / file).read_bytes() for file in ("ca.crt", "client.key", "client.crt")
    ]
    options = [("grpc.ssl_target_name_override", "server"), ("grpc.use_local_subchannel_pool", 1)]
    credentials = grpc.ssl_channel_credentials(*own)
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        call = channel.stream_stream("/amaqctl.Party/Stream")(iter(frames), timeout=20)
        try:
            for _ in call:
                pass
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"
