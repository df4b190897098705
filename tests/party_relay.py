"""A relay that cuts, in a process of its own: one with threads is better not forked."""

from __future__ import annotations

import os
import random
import signal
import time

from transport_parts import Relay


class RelayProcess:
    """Passes between its own port and ``port`` until `end`.

    Each connection is cut after a length drawn for it, in the middle of whatever it carries; now
    and then nothing passes for longer than a silence.
    """

    def __init__(self, port: int, seed: str) -> None:
        reading, writing = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                _pass(port, seed, writing)
            finally:
                os._exit(0)
        os.close(writing)
        self._reading = os.fdopen(reading)
        self.port = int(self._reading.readline())

    def end(self) -> int:
        """Stop; how often it has cut."""
        os.kill(self._pid, signal.SIGTERM)
        num_cuts = int(self._reading.readline() or 0)
        os.waitpid(self._pid, 0)
        self._reading.close()
        return num_cuts


def _pass(port: int, seed: str, writing: int) -> None:
    is_over = []
    signal.signal(signal.SIGTERM, lambda *_: is_over.append(True))
    choose = random.Random(seed)
    relay = Relay(port, cut_after=(4000, 40_000), seed=choose.randrange(2**32))
    os.write(writing, f"{relay.port}\n".encode())
    while not is_over:
        time.sleep(choose.uniform(0.2, 3.0))
        if not is_over and choose.random() < 0.3:
            relay.is_passing = False
            time.sleep(choose.uniform(1.0, 2.0))
            relay.is_passing = True
    os.write(writing, f"{relay.num_cuts}\n".encode())
