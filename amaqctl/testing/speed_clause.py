"""How long one call takes; what is slow on a small tensor would hold up every other clause."""

from __future__ import annotations

import time
from collections.abc import Callable

from amaqctl.quantizer import Quantizer
from amaqctl.testing.finding import TooSlowError, case
from amaqctl.testing.subject import NUM_CHANNELS, Subject, hidden_like
from amaqctl.testing.time_limit import time_limit
from amaqctl.wire import Message

_SHAPE_BTC = (2, 8, NUM_CHANNELS)
_LONGEST_SECONDS = 1.0
_NUM_TRIES = 3  # the first may compile something, and the machine may be busy
_PATIENCE_SECONDS = 10.0


def speed(subject: Subject) -> None:
    """Building, and each call on a small tensor, take less than a second."""
    x = hidden_like(_SHAPE_BTC)
    context = subject.context(x)
    senders: list[Quantizer] = []
    _quick("building it", lambda: senders.append(subject.sender()))
    sender, receiver = senders[-1], subject.receiver()
    sent: list[bytes] = []
    _quick("quantize", lambda: sent.append(subject.send(sender, x, context)))
    if subject.role == "activation":
        _quick("surrogate, penalty, backward", lambda: subject.backward(sender, x, context))
    good = Message.from_bytes(sent[0])
    end = subject.end(receiver)
    _quick("dequantize", lambda: end.dequantize(good.quantized, good.context))
    _quick("state_dict", lambda: sender.state_dict())


def _quick(name: str, call: Callable[[], object]) -> None:
    shortest = float("inf")
    with case(name):
        for _ in range(_NUM_TRIES):
            start = time.perf_counter()
            with time_limit(_PATIENCE_SECONDS):
                call()
            shortest = min(shortest, time.perf_counter() - start)
            if shortest < _LONGEST_SECONDS:
                return
        raise TooSlowError(f"less than {_LONGEST_SECONDS:g} s", f"{shortest:.1f} s")
