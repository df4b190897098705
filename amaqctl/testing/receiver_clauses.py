"""The receiver on its own: in another process, and with messages that somebody damaged."""

from __future__ import annotations

from dataclasses import replace

import torch
from safetensors.torch import load, save
from torch import Tensor

from amaqctl.errors import AmaqError, PluginError
from amaqctl.quantizer import QuantizedTensor, Quantizer, TensorContext
from amaqctl.testing.damage import damaged
from amaqctl.testing.finding import case, expect
from amaqctl.testing.fresh_decoder import FreshDecoderError, decode_elsewhere
from amaqctl.testing.second_device import SecondDevice, is_marked, mark, move
from amaqctl.testing.state_clauses import state_of
from amaqctl.testing.subject import NUM_CHANNELS, NUM_SAMPLES, Subject, hidden_like, same_bits
from amaqctl.wire import Message

_SHAPE_BTC = (2, 8, NUM_CHANNELS)
_NUM_STEPS = 4


def fresh(subject: Subject) -> None:
    """A new process that has options, saved state and bytes alone decodes to the same bits."""
    place = f"{subject.cls.__module__}.{subject.cls.__qualname__}"
    importable = "<locals>" not in place and not place.startswith("__main__")
    expect(importable, "a class that another process can import", place)
    sender, receiver = subject.sender(), subject.receiver()
    for step in range(_NUM_STEPS):
        x = hidden_like(_SHAPE_BTC, step)
        subject.receive(receiver, subject.train(sender, x, subject.context(x, step)))
    state = save(state_of(receiver))
    messages, expected = [], []
    for step in range(_NUM_STEPS, 2 * _NUM_STEPS):
        for training in (True, False):
            x = hidden_like(_SHAPE_BTC, step)
            context = subject.context(x, step, training=training)
            send = subject.train if training else subject.send
            messages.append(send(sender, x, context))
            expected.append(subject.receive(receiver, messages[-1]))
    with case(f"in another process, with the state after {_NUM_STEPS} steps"):
        try:
            decoded = decode_elsewhere(subject, state, messages)
        except FreshDecoderError as error:
            expect(False, "decoded messages", error)
        for number, (here, there) in enumerate(zip(expected, decoded, strict=True)):
            with case(f"message {number}"):
                expect(same_bits(here, there), "the same bits as here", "others")


def refused(subject: Subject) -> None:
    """A message that is refused changes nothing: the next decodes as if it had never come."""
    sender, receiver = subject.sender(), subject.receiver()
    for step in range(_NUM_STEPS):
        # Where large ranges overflow, and where they do not.
        x = hidden_like(_SHAPE_BTC, step).to((torch.float32, torch.float16)[step % 2])
        good = Message.from_bytes(subject.train(sender, x, subject.context(x, step)))
        state = save(state_of(receiver))
        decoded = subject.end(receiver).dequantize(good.quantized, good.context)
        for name, quantized in damaged(good.quantized):
            with case(f"step {step}, {name}"):
                _offer(subject, state, quantized, good.context, good, decoded)
        for name, context in _other_contexts(good.context):
            with case(f"step {step}, {name}"):
                _offer(subject, state, good.quantized, context, good, decoded)


def device(subject: Subject) -> None:
    """Tensors are made on the device of the module, and decoded there."""
    sender, receiver = move(subject.sender()), move(subject.receiver())
    for step in range(_NUM_STEPS):
        for training in (True, False):
            x = hidden_like(_SHAPE_BTC, step)
            context = subject.context(x, step, training=training)
            with case(f"step {step}, on a device that is not the CPU"), SecondDevice():
                sent = subject.quantize(sender, mark(x.clone()), context)
                for name, tensor in _tensors_of(sent).items():
                    expect(is_marked(tensor), f"{name} on the module's device", "it on the CPU")
                if subject.role == "activation" and training:
                    sender.surrogate(mark(x.clone()).requires_grad_(), context)
                message = Message.from_bytes(Message(subject.name, context, sent).to_bytes())
                decoded = subject.end(receiver).dequantize(_moved(message.quantized), context)
                expect(is_marked(decoded), "a tensor on the module's device", "one on the CPU")


def _tensors_of(quantized: QuantizedTensor) -> dict[str, Tensor]:
    """What `decoded` at the sender would get as it is; widths stay on the CPU."""
    tensors = {f"side tensor '{name}'": tensor for name, tensor in quantized.side.items()}
    return tensors if quantized.codes is None else {**tensors, "codes": quantized.codes.data}


def _moved(quantized: QuantizedTensor) -> QuantizedTensor:
    """As a channel hands it to `dequantize`."""
    codes = quantized.codes
    if codes is not None:
        codes = replace(codes, data=mark(codes.data.clone()))
    side = {name: mark(tensor.clone()) for name, tensor in quantized.side.items()}
    return replace(quantized, codes=codes, side=side)


def _offer(
    subject: Subject,
    state: bytes,
    quantized: QuantizedTensor,
    context: TensorContext,
    good: Message,
    expected: Tensor,
) -> None:
    """Hand in one damaged message, and if it is refused the good one after it."""
    receiver: Quantizer = subject.receiver()
    receiver.load_state_dict(load(state))
    end = subject.end(receiver)
    try:
        value = end.dequantize(quantized, context)
    except PluginError:
        raise
    except AmaqError:
        expect(save(state_of(receiver)) == state, "an unchanged state", "another")
        decoded = end.dequantize(good.quantized, good.context)
        expect(same_bits(decoded, expected), "the next message's bits as without it", "others")
    else:  # what a layout allows is no lie: garbage in, garbage out
        shape = tuple(quantized.shape)
        expect(tuple(value.shape) == shape, f"shape {shape}", tuple(value.shape))
        expect(bool(value.isfinite().all()), "finite values", "NaN or infinity")


def _other_contexts(context: TensorContext) -> list[tuple[str, TensorContext]]:
    """Of the right form, and not what the sender meant."""
    ids = context.sample_ids
    return [
        ("of another step", replace(context, step=context.step + 7)),
        ("samples in another order", replace(context, sample_ids=ids[::-1])),
        ("samples that there are none of", replace(context, sample_ids=(NUM_SAMPLES,) * len(ids))),
    ]
