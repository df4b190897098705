"""A generation's tokens travel without ranges of their own, and decode with their prompt's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from amaqctl.errors import QuantizationError
from amaqctl.quantizer import Site, TensorContext
from amaqctl.quantizers.amaq import AmaqQuantizer
from amaqctl.wire import Limits, Message

NUM_CHANNELS = 64
SITE = Site(
    link=0, role="activation", num_channels=NUM_CHANNELS, max_positions=64, num_samples=1, seed=0
)
PROMPT = TensorContext(
    role="activation", link=0, step=9, total_steps=9, sample_ids=(), training=False
)
LATER = replace(PROMPT, first_position=16)
OPTIONS = {"allocation": "learned", "target_bits": 3, "start_bits": 3, "center": True}


def quantizer(**options: Any) -> AmaqQuantizer:
    return AmaqQuantizer(AmaqQuantizer.Config(**{**OPTIONS, **options}), SITE)


def hidden(num_rows: int, num_tokens: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    offsets_C = torch.linspace(-8, 8, NUM_CHANNELS)
    return torch.randn((num_rows, num_tokens, NUM_CHANNELS), generator=generator) + offsets_C


def message(sender: AmaqQuantizer, x: torch.Tensor, context: TensorContext) -> bytes:
    return Message("amaq", context, sender.quantize(x, context), sequence=0).to_bytes()


def received(receiver: AmaqQuantizer, data: bytes) -> torch.Tensor:
    came = Message.from_bytes(data, Limits(max_bytes=10**6, max_values=10**6))
    return receiver.dequantize(came.quantized, came.context)


def test_a_token_costs_its_codes_and_a_header() -> None:
    sender, alone = quantizer(), quantizer(prompt_ranges=False)
    sizes = {}
    for name, one in (("shared", sender), ("own", alone)):
        one.quantize(hidden(8, 16), PROMPT)
        sizes[name] = len(message(one, hidden(8, 1, seed=1), LATER))
    # Eight rows of 3 bits are 3 bytes a channel; a range and a mean are 2 bytes each.
    assert sizes["own"] - sizes["shared"] > 4 * NUM_CHANNELS
    assert sizes["shared"] < 3 * NUM_CHANNELS + 400


def test_what_is_decoded_has_the_error_of_the_prompt() -> None:
    sender, receiver = quantizer(), quantizer()
    prompt, token = hidden(8, 16), hidden(8, 1, seed=1)
    prompt_error = received(receiver, message(sender, prompt, PROMPT)) - prompt
    token_error = received(receiver, message(sender, token, LATER)) - token
    assert float(token_error.square().mean()) < 2 * float(prompt_error.square().mean())
    assert float(token_error.square().mean()) < 0.1  # of unit-variance channels, 3 bits


def test_the_sender_knows_what_the_receiver_gets() -> None:
    sender, receiver = quantizer(), quantizer()
    received(receiver, message(sender, hidden(2, 16), PROMPT))
    token = hidden(2, 1, seed=1)
    sent = sender.quantize(token, LATER)
    data = Message("amaq", LATER, sent, sequence=0).to_bytes()
    assert torch.equal(received(receiver, data), sender.dequantize(sent, LATER))


def test_a_receiver_that_missed_the_prompt_refuses() -> None:
    sender = quantizer()
    sender.quantize(hidden(2, 16), PROMPT)
    data = message(sender, hidden(2, 1), LATER)
    with pytest.raises(QuantizationError, match="a prompt that did not come"):
        received(quantizer(), data)


def test_a_prompt_of_other_widths_is_another_prompt() -> None:
    sender, receiver, other = quantizer(), quantizer(), quantizer()
    received(receiver, message(sender, hidden(2, 16), PROMPT))
    with torch.no_grad():
        other.gates_K.copy_(torch.linspace(-3, 3, NUM_CHANNELS))
    other.quantize(hidden(2, 16), PROMPT)
    data = message(other, hidden(2, 1), LATER)
    with pytest.raises(QuantizationError, match="a prompt that did not come"):
        received(receiver, data)


def test_other_widths_need_ranges_of_their_own() -> None:
    sender, receiver = quantizer(), quantizer()
    received(receiver, message(sender, hidden(2, 16), PROMPT))
    with torch.no_grad():
        sender.gates_K.copy_(torch.linspace(-3, 3, NUM_CHANNELS))
    token = hidden(2, 1, seed=1)
    sent = sender.quantize(token, LATER)
    assert set(sent.side) == {"mean", "range"}
    data = Message("amaq", LATER, sent, sequence=0).to_bytes()
    assert torch.equal(received(receiver, data), sender.dequantize(sent, LATER))


def test_training_between_a_prompt_and_its_tokens_changes_neither() -> None:
    with_training, without = (quantizer(), quantizer()), (quantizer(), quantizer())
    tokens = []
    for sender, receiver in (with_training, without):
        received(receiver, message(sender, hidden(2, 16), PROMPT))
        if sender is with_training[0]:
            training = replace(PROMPT, training=True)
            received(receiver, message(sender, 9 * hidden(2, 16, seed=5), training))
        data = message(sender, hidden(2, 1, seed=1), LATER)
        tokens.append((data, received(receiver, data)))
    assert tokens[0][0] == tokens[1][0]
    assert torch.equal(tokens[0][1], tokens[1][1])


def test_a_training_message_is_no_prompt() -> None:
    sender, receiver = quantizer(), quantizer()
    training = replace(PROMPT, training=True)
    received(receiver, message(sender, hidden(2, 16), training))
    assert set(sender.quantize(hidden(2, 1), LATER).side) == {"mean", "range"}
    prompted = quantizer()
    prompted.quantize(hidden(2, 16), PROMPT)
    with pytest.raises(QuantizationError, match="a prompt that did not come"):
        received(receiver, message(prompted, hidden(2, 1), LATER))


@pytest.mark.parametrize("context", [PROMPT, replace(LATER, training=True)])
def test_everything_else_carries_its_own(context: TensorContext) -> None:
    sender = quantizer()
    sender.quantize(hidden(2, 16), PROMPT)
    assert set(sender.quantize(hidden(2, 16, seed=1), context).side) == {"mean", "range"}
