"""A network link in user space: a TCP relay that delays and limits what it passes. Simulated.

It stands in for a long line where the kernel has no such device. TCP itself runs on this machine
on both sides of it, so that lost segments and slow starts are not in what is measured over it.
"""

from __future__ import annotations

import queue
import socket
import threading
import time

_CHUNK_BYTES = 16384


class SimulatedLink:
    """Listens at ``port`` and passes to ``target_port``.

    Args:
        one_way_seconds: delay of each direction.
        bits_per_second: of each direction; 0 means no limit.

    Attributes:
        is_passing: set to False, it swallows nothing and passes nothing.
    """

    def __init__(self, target_port: int, one_way_seconds: float, bits_per_second: float) -> None:
        self._target_port = target_port
        self._one_way_seconds, self._bits_per_second = one_way_seconds, bits_per_second
        self.is_passing = True
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._listening.close()

    def _listen(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                near.close()
                continue
            for source, target in ((near, far), (far, near)):
                target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                for work, end in ((self._take, source), (self._give, target)):
                    threading.Thread(target=work, args=(end, waiting), daemon=True).start()

    def _take(self, source: socket.socket, waiting: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        free_at = 0.0
        data = b"?"
        while data:
            try:
                data = source.recv(_CHUNK_BYTES)
            except OSError:
                data = b""
            seconds = 8 * len(data) / self._bits_per_second if self._bits_per_second else 0.0
            free_at = max(free_at, time.perf_counter()) + seconds
            waiting.put((free_at + self._one_way_seconds, data))

    def _give(self, target: socket.socket, waiting: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        while True:
            due, data = waiting.get()
            while (left := due - time.perf_counter()) > 0 or not self.is_passing:
                time.sleep(max(left, 0.0005))
            try:
                if not data:
                    target.shutdown(socket.SHUT_RDWR)
                    return
                target.sendall(data)
            except OSError:
                return
