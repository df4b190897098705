"""The decoder twin that a sender keeps: whose it is, where it lies, what of it is saved."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from amaqctl.quantizer import (
    QuantizedTensor,
    Quantizer,
    QuantizerConfig,
    Site,
    TensorContext,
)

SITE = Site(0, "activation", 4, 8, 3, 17, end="sender")
CONTEXT = TensorContext("activation", 0, 0, 10, sample_ids=(0,))


class Counting(Quantizer):
    """Sends raw values; a receiver adds how many messages it has had."""

    class Config(QuantizerConfig):
        """One option."""

        scale: float = Field(1.0, description="what values are multiplied by")

    def __init__(self, config: Any, site: Site) -> None:
        super().__init__(config, site)
        self.weight = nn.Parameter(torch.ones(()))
        self.register_buffer("num_received", torch.zeros(()))
        self.keep_decoder()

    def quantize(self, x: Tensor, context: TensorContext) -> QuantizedTensor:
        return QuantizedTensor(tuple(x.shape), x.dtype, None, {"raw": x * self.config.scale})

    def dequantize(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        assert self.site.end == "receiver", "what decodes is built as a receiver"
        received = self.num_received + 1
        self.once_accepted(lambda: self.num_received.copy_(received))
        return quantized.side["raw"] * self.weight + received


def test_a_twin_is_a_receiver_that_remembers_and_learns_nothing() -> None:
    sender = Counting(Counting.Config(), SITE)
    quantized = sender.quantize(torch.ones(1, 2, 4), CONTEXT)
    for number in (1, 2, 3):
        decoded = sender.decoded(quantized, CONTEXT)
        assert not decoded.requires_grad
        assert torch.equal(decoded, torch.full((1, 2, 4), 1.0 + number))
    assert float(sender.num_received) == 0  # its own is the receiver's business
    assert [id(p) for p in sender.parameters()] == [id(sender.weight)]


def test_a_message_that_is_not_accepted_leaves_the_twin_as_it_was() -> None:
    class Refusing(Counting):
        def dequantize(self, quantized: QuantizedTensor, context: TensorContext) -> Tensor:
            value = super().dequantize(quantized, context)
            if bool((value > 100).any()):
                raise ValueError("no")
            return value

    sender = Refusing(Refusing.Config(), SITE)
    good, bad = (sender.quantize(torch.full((1, 1, 4), v), CONTEXT) for v in (1.0, 1000.0))
    with pytest.raises(ValueError, match="no"):
        sender.decoded(bad, CONTEXT)
    assert sender.decoded(good, CONTEXT).tolist() == [[[2.0] * 4]]


def test_state_of_a_twin_is_saved_and_comes_back_whatever_was_there() -> None:
    sender, other = (Counting(Counting.Config(), SITE) for _ in range(2))
    quantized = sender.quantize(torch.ones(1, 1, 4), CONTEXT)
    sender.decoded(quantized, CONTEXT)
    sender.decoded(quantized, CONTEXT)
    other.decoded(quantized, CONTEXT)
    state = sender.state_dict()
    assert all(not tensor.requires_grad for tensor in state.values())
    kept = sender.state_dict(keep_vars=True)
    assert sum(tensor.requires_grad for tensor in kept.values()) == 2  # the weights of both
    other.load_state_dict(state)
    assert torch.equal(other.decoded(quantized, CONTEXT), torch.full((1, 1, 4), 4.0))
    assert other.state_dict().keys() == state.keys()


def test_a_twin_moves_with_its_quantizer() -> None:
    sender = Counting(Counting.Config(), SITE)
    sender.double()
    assert {tensor.dtype for tensor in sender.state_dict().values()} == {torch.float64}


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_no_option_is_infinite(value: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        Counting.Config(scale=value)
