"""The declared layout: there is one, and both ends have the same.

Legend: B batch, T tokens, C channels.
"""

from __future__ import annotations

from amaqctl.quantizer import Layout, QuantizedTensor, Quantizer, TensorContext
from amaqctl.testing.finding import case, expect
from amaqctl.testing.subject import NUM_CHANNELS, Subject, hidden_like
from amaqctl.wire import Message

_SHAPES_BTC = ((2, 8, NUM_CHANNELS), (1, 3, NUM_CHANNELS), (1, 1, NUM_CHANNELS))


def declared(subject: Subject) -> None:
    """The layout of every message is declared, and alike at both ends."""
    sender, receiver = subject.sender(), subject.receiver()
    for step in range(6):
        shape = _SHAPES_BTC[step % 2]
        x = hidden_like(shape, step)
        context = subject.context(x, step)
        with case(f"step {step}, shape {shape}"):
            data = subject.train(sender, x, context)
            _check(data, sender, receiver)
            subject.receive(receiver, data)
    for shape in _SHAPES_BTC:
        x = hidden_like(shape)
        context = subject.context(x, 6, training=False)
        with case(f"evaluation, shape {shape}"):
            _check(subject.send(sender, x, context), sender, receiver)


def _check(data: bytes, sender: Quantizer, receiver: Quantizer) -> None:
    message = Message.from_bytes(data)
    quantized, context = message.quantized, message.context
    found = [_layout(end, quantized, context) for end in (sender, receiver)]
    for end, layout in zip(("sender", "receiver"), found, strict=True):
        expect(isinstance(layout, Layout), f"layout() of the {end} to declare one", layout)
    expect(found[0] == found[1], f"the sender's layout at the receiver, {found[0]}", found[1])


def _layout(end: Quantizer, quantized: QuantizedTensor, context: TensorContext) -> Layout | None:
    allocation = quantized.codes.allocation if quantized.codes is not None else None
    return end.layout(quantized.shape, quantized.dtype, context, allocation)
