"""Broken messages for the receiver of every quantizer, in one process.

What a channel refuses must leave the receiver as it was, and end the channel: after a restart it
goes on as if the message had never come. Nothing but WireError may come out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from engine_parts import FromAPeer, pair_of
from quantizer_cases import Case as QuantizerCase
from quantizer_cases import all_cases
from torch import Tensor

from amaqctl.bits import BitAllocation
from amaqctl.engine.link import Channel
from amaqctl.errors import WireError
from amaqctl.quantizer import Site, TensorContext
from amaqctl.transports.transport import Address
from amaqctl.wire import Limits, Message
from fuzzing.frames import break_frame
from fuzzing.runner import Check

_ROWS, _TOKENS, _CHANNELS, _POSITIONS = 2, 5, 12, 24
_MAX_VALUES = 2 * _ROWS * _POSITIONS * _CHANNELS
_LIMITS = Limits(max_bytes=4 * _MAX_VALUES + 2**20, max_values=_MAX_VALUES)


def cases(seed: int) -> Iterator[Check]:
    """Checks without end."""
    draw = random.Random(seed)
    while True:
        receiver = draw.choice(_receivers())
        known = draw.randrange(3)
        data, what = break_frame(draw, draw.choice(receiver.frames))
        name = f"{receiver.case} after {known}: {what}"
        if draw.random() < 0.3:
            yield Check(name, partial(_read, Message.from_bytes, data))
        else:
            yield Check(name, partial(receiver.meets, data, known))


def _read(reader: Callable[[bytes], Any], data: bytes) -> str:
    try:
        reader(data)
    except WireError:
        return "refused"
    return "read"


@dataclass
class Receiver:
    """A receiver of one quantizer, and three good messages for it.

    Attributes:
        case: name, role and options.
        frames: the messages in their order.
    """

    case: QuantizerCase
    frames: tuple[bytes, ...]

    def meets(self, data: bytes, known: int) -> str:
        """After ``known`` good messages comes ``data``; the rest must not notice.

        Returns:
            Whether it was taken.

        Raises:
            AssertionError: it was refused and something changed, or was taken and is no tensor.
            Exception: what came out is no WireError.
        """
        channel, transport = _channel(self.case)
        for frame in self.frames[:known]:
            _feed(channel, transport, frame)
        before = _state(channel)
        try:
            value = _feed(channel, transport, data)
        except WireError:
            self._check_unchanged(channel, transport, before, known)
            return "refused"
        assert bool(value.isfinite().all()), "what was taken is not finite"
        assert value.numel() <= _MAX_VALUES, f"what was taken has {value.numel()} values"
        return "taken"

    def _check_unchanged(
        self, channel: Channel, transport: FromAPeer, before: dict[str, Any], known: int
    ) -> None:
        assert _same(_state(channel), before), "a refused message changed the receiver"
        assert channel.num_received == known, "a refused message was counted"
        good = self.frames[known]
        try:
            _feed(channel, transport, good)
        except WireError:
            assert _same(_state(channel), before), "the channel refuses, and something changed"
        else:
            raise AssertionError("a channel that met a violation goes on")
        channel.restart(known, known)
        assert torch.equal(_feed(channel, transport, good), _decoded(self.case, known)), (
            "the next message decodes to something else"
        )


@cache
def _receivers() -> tuple[Receiver, ...]:
    return tuple(Receiver(case, _frames(case)) for case in all_cases())


@cache
def _decoded(case: QuantizerCase, number: int) -> Tensor:
    """What a good message decodes to where none but good ones came."""
    channel, transport = _channel(case)
    return [_feed(channel, transport, frame) for frame in _frames(case)[: number + 1]][-1]


@cache
def _frames(case: QuantizerCase) -> tuple[bytes, ...]:
    """Messages of three steps; the first two are of the same samples."""
    channel, transport = _channel(case)
    for step, samples in enumerate(((1, 2), (1, 2), (2, 5))):
        generator = torch.Generator().manual_seed(step)
        widths_C = torch.arange(_CHANNELS).remainder(7).to(torch.uint8) + 2
        context = TensorContext(
            case.role,
            0,
            step,
            10,
            sample_ids=samples,
            lengths=(_TOKENS, _TOKENS - 1),
            allocation=BitAllocation(widths_C, "channel") if case.role == "gradient" else None,
        )
        channel.send(torch.randn(_ROWS, _TOKENS, _CHANNELS, generator=generator), context)
    return tuple(data for _, data in transport.sent)


def _channel(case: QuantizerCase) -> tuple[Channel, FromAPeer]:
    transport = FromAPeer()
    site = Site(0, case.role, _CHANNELS, _POSITIONS, 8, 17)
    channel = Channel(
        Address(0, case.role),
        transport,
        pair_of(case.name, dict(case.options), site),
        pair_of("none", {}, site),
        _LIMITS,
        torch.device("cpu"),
        lambda message, sizes: None,
    )
    return channel, transport


def _feed(channel: Channel, transport: FromAPeer, data: bytes) -> Tensor:
    transport._queues.clear()
    transport.send(channel.address, data)
    transport.sent.clear()
    return channel.receive().value


def _state(channel: Channel) -> dict[str, Any]:
    state = channel.quantizers.receiver.quantizer.state_dict()
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    if one.keys() != other.keys():
        return False
    for name, value in one.items():
        if isinstance(value, Tensor):
            if value.shape != other[name].shape or value.dtype != other[name].dtype:
                return False
            if not torch.equal(value.nan_to_num(7e7), other[name].nan_to_num(7e7)):
                return False
        elif value != other[name]:
            return False
    return True
