"""In the engine's own hands: a channel refuses what is not finite, and the tiny model trains."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from amaqctl import build
from amaqctl.engine.engine import Engine
from amaqctl.engine.link import Channel, QuantizerPair
from amaqctl.errors import AmaqError
from amaqctl.profile import load_profile
from amaqctl.profile.yaml12 import dump
from amaqctl.tasks.batch import batch_at
from amaqctl.testing.finding import case, expect
from amaqctl.testing.subject import NUM_CHANNELS, Subject, hidden_like, same_bits
from amaqctl.transports.loopback import LoopbackTransport
from amaqctl.transports.transport import Address
from amaqctl.wire import Limits, Message

_NUM_STEPS = 10
_BATCH_SIZE = 2
_LENGTH = 32
_SEED = 17
_TEXT = "A stitch in time saves nine; all is well that ends well, said the old clock to me. "


def non_finite(subject: Subject) -> None:
    """NaN and infinity are refused with an AmaqError, and the next tensor is none the worse."""
    for value in (math.nan, math.inf, -math.inf):
        channel, untouched = _channel(subject), _channel(subject)
        for step in range(3):
            x = hidden_like((2, 8, NUM_CHANNELS), step)
            context = subject.context(x, step)
            spoilt = x.clone()
            spoilt[0, 3, 5] = value
            with case(f"{value} sent through a channel, step {step}"):
                _expect_refusal(lambda t=spoilt, c=context: channel.send(t, c))  # type: ignore[misc]
                decoded = []
                for one in (channel, untouched):
                    one.send(x, context)
                    decoded.append(one.receive().value)
                expect(same_bits(*decoded), "what comes without a refusal before", "other bits")
        with case(f"{value} given to quantize itself"):
            _expect_refusal(lambda t=spoilt, c=context: _pass_by(subject, t, c))  # type: ignore[misc]


def _channel(subject: Subject) -> Channel:
    pair = QuantizerPair(subject.name, subject.build(), subject.build())
    transport = LoopbackTransport(LoopbackTransport.Config())
    return Channel(
        Address(0, subject.role),
        transport,
        pair,
        pair,
        Limits(),
        torch.device("cpu"),
        lambda message, sizes: None,
    )


def _pass_by(subject: Subject, x: torch.Tensor, context: object) -> None:
    """Around the sending channel's own check, into a receiving one."""
    sender, address = subject.build(), Address(0, subject.role)
    first = subject.context(x)
    transport = LoopbackTransport(LoopbackTransport.Config())
    pair = QuantizerPair(subject.name, sender, subject.build())
    receiving = Channel(
        address, transport, pair, pair, Limits(), torch.device("cpu"), lambda message, sizes: None
    )
    transport.send(address, Message(subject.name, first, subject.quantize(sender, x, first)).to_bytes())
    receiving.receive()


def _expect_refusal(action: object) -> None:
    try:
        action()  # type: ignore[operator]
    except AmaqError:
        return
    expect(False, "an AmaqError", "none")
