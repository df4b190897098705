"""One party of a measured run: `amaqctl train --party`, with a clock at its waits and its codec.

    python benchmarks/network/training_party.py EVENTS train …

Writes to EVENTS, as JSON, when it did what: `steps`, `waits` and `codec` are starts and ends, each
by the clock and by the processor's seconds of the thread that trains; `sent` are time and bytes of
what left. The clock is one for all processes of a machine. The leader asks before each step: it
prints a line, and goes on when it gets one.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amaqctl.cli.main import app
from amaqctl.engine.engine import Engine
from amaqctl.engine.memory import peak_memory_mib
from amaqctl.quantizer import QuantizerEnd
from amaqctl.transports.mailbox import Mailbox
from amaqctl.transports.routed import RoutedTransport
from amaqctl.transports.transport import Address
from amaqctl.wire import Message

_EVENTS: dict[str, list[Any]] = {"steps": [], "waits": [], "codec": [], "sent": []}


def _timed(plain: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """Note start and end of each call, and the processor's seconds at both, of this thread."""

    def call(*arguments: Any, **more: Any) -> Any:
        began = time.perf_counter(), time.thread_time()
        try:
            return plain(*arguments, **more)
        finally:
            if threading.current_thread() is threading.main_thread():
                _EVENTS[kind].append((*began, time.perf_counter(), time.thread_time()))

    return call


def _watch() -> None:
    for verb in ("quantize", "dequantize", "surrogate"):
        setattr(QuantizerEnd, verb, _timed(getattr(QuantizerEnd, verb), "codec"))
    Message.to_bytes_and_sizes = _timed(  # type: ignore[method-assign]
        Message.to_bytes_and_sizes, "codec"
    )
    Message.from_bytes = staticmethod(  # type: ignore[method-assign,assignment]
        _timed(Message.from_bytes, "codec")
    )
    Mailbox.wait_any = _timed(Mailbox.wait_any, "waits")  # type: ignore[method-assign]
    step, send = _timed(Engine.train_step, "steps"), RoutedTransport.send

    def asked_step(*arguments: Any) -> Any:
        os.write(1, b"ready\n")  # what is printed in a command goes to stderr
        sys.stdin.readline()
        return step(*arguments)

    def counted_send(transport: RoutedTransport, address: Address, data: bytes) -> None:
        _EVENTS["sent"].append((time.perf_counter(), len(data)))
        send(transport, address, data)

    Engine.train_step = asked_step  # type: ignore[method-assign]
    RoutedTransport.send = counted_send  # type: ignore[method-assign]


def main() -> None:
    """Be a party."""
    events, *words = sys.argv[1:]
    _watch()
    try:
        app(words)
    finally:
        told = {**_EVENTS, "peak_mib": peak_memory_mib()}
        Path(events).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
