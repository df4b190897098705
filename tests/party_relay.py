"""A relay that cuts, in a process of its own: one with threads is better not forked."""

from __future__ import annotations

import os
import random
import signal
import time

from transport_parts import Relay


class RelayProcess:
    """Passes between its own port and ``port`` until `end`.

    Args:
        cut_after: bounds of the length, drawn for each connection, after which it is cut in the
            middle of whatever it carries; and now and then nothing passes for longer than a
            silence. None: nothing is cut.
    """

    def __init__(self, port: int, seed: str, cut_after: tuple[int, int] | None) -> None:
        reading, writing = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                _pass(port, seed, writing, cut_after)
            finally:
                os._exit(0)
        os.close(writing)
        self._reading = os.fdopen(reading)
        self.port = int(self._reading.readline())

    def turn(self) -> None:
        """Pass nothing from now on, or pass again."""
        os.kill(self._pid, signal.SIGUSR1)

    def end(self) -> int:
        """Stop; how often it has cut."""
        os.kill(self._pid, signal.SIGTERM)
        num_cuts = int(self._reading.readline() or 0)
        os.waitpid(self._pid, 0)
        self._reading.close()
        return num_cuts


def _pass(port: int, seed: str, writing: int, cut_after: tuple[int, int] | None) -> None:
    choose = random.Random(seed)
    relay = Relay(port, cut_after=cut_after, seed=choose.randrange(2**32))

    def turn(*_: object) -> None:
        relay.is_passing = not relay.is_passing

    is_over: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: is_over.append(True))
    signal.signal(signal.SIGUSR1, turn)
    os.write(writing, f"{relay.port}\n".encode())
    while not is_over:
        time.sleep(choose.uniform(0.2, 3.0))
        if cut_after and not is_over and choose.random() < 0.3:
            turn()
            time.sleep(choose.uniform(1.0, 2.0))
            turn()
    os.write(writing, f"{relay.num_cuts}\n".encode())
