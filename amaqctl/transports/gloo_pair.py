"""One pair of processes under gloo: a thread that sends a session's frames, and one that reads.

A frame goes as one tensor of bytes: four bytes of length, little-endian, and the frame. gloo fills
the front of a longer buffer, so that a length never has to travel ahead by itself. Length zero
says that no more will come.
"""

from __future__ import annotations

import struct
import threading

import torch
import torch.distributed as dist

from amaqctl.errors import WireError
from amaqctl.transports.frames import MAX_FRAME_BYTES
from amaqctl.transports.session import Session

_LENGTH = struct.Struct("<I")
_JOIN_SECONDS = 2.0


class GlooPair:
    """Carries one session over the one connection that gloo has to a peer."""

    def __init__(self, session: Session, rank: int) -> None:
        self._session, self._rank = session, rank
        self._connection, _ = session.reserve()
        session.begin(self._connection, 0)
        self._threads = [
            threading.Thread(target=work, name=f"amaqctl-gloo-{rank}", daemon=True)
            for work in (self._send, self._read)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> bool:
        """Wait a moment for both threads; whether they are done."""
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)
        return not any(thread.is_alive() for thread in self._threads)

    def _send(self) -> None:
        try:
            for frame in self._session.frames(self._connection):
                self._put(frame)
            self._put(b"")
        except RuntimeError as error:
            self._broke(error)

    def _put(self, frame: bytes) -> None:
        data = bytearray(_LENGTH.pack(len(frame)) + frame)
        dist.send(torch.frombuffer(data, dtype=torch.uint8), self._rank)

    def _read(self) -> None:
        try:
            buffer = torch.empty(_LENGTH.size + MAX_FRAME_BYTES, dtype=torch.uint8)
            raw = buffer.numpy().data
            while True:
                dist.recv(buffer, self._rank)
                (length,) = _LENGTH.unpack_from(raw)
                if not length:
                    break
                if length > MAX_FRAME_BYTES:
                    raise WireError(f"a frame of {length} bytes")
                data = bytes(raw[_LENGTH.size : _LENGTH.size + length])
                if not self._session.accept(self._connection, data):
                    return
        except (RuntimeError, WireError) as error:
            self._broke(error)
        self._session.broke(self._connection, "the other side closed the connection")

    def _broke(self, error: Exception) -> None:
        """gloo never connects again, so whoever is cut off is lost."""
        first_line = str(error).strip().splitlines()[0]
        self._session.lose(f"connection lost: {first_line}")
