"""`QuantizerEnd`: what it says of shapes, states and widths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from amaqctl import registry
from amaqctl.errors import InputError, PluginError
from amaqctl.quantizer import (
    QuantizedTensor,
    QuantizerEnd,
    Site,
    TensorContext,
    resolve_quantizer,
)
from amaqctl.registry import Offer

SITE = Site(0, "activation", 8, 16, 4, 17)
CONTEXT = TensorContext("activation", 0, 0, 10)
X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(3))


def end_of(name: str, **options: Any) -> QuantizerEnd:
    return resolve_quantizer(name, options).end(SITE, torch.device("cpu"))


def stranger(inner: Any) -> QuantizerEnd:
    offer = Offer(registry.QUANTIZERS, "mine", "mine:Mine", "acme-mine", "1.2")
    return QuantizerEnd(offer, inner)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1, 5, 8), torch.float32), ((3, 5, 8), torch.float32), ((2, 5, 8), torch.bfloat16)],
)
def test_a_message_of_another_tensor_than_was_given(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    fixed = end_of("fixed").quantizer
    other = fixed.quantize(torch.zeros(shape, dtype=dtype), CONTEXT)
    fixed.quantize = lambda x, context: other  # type: ignore[method-assign]
    with pytest.raises(PluginError, match=r"made a message of .* for .*\(2, 5, 8\) \(quantize\)"):
        stranger(fixed).quantize(X, CONTEXT)


def test_what_a_sender_decodes_has_no_gradient() -> None:
    fixed = end_of("fixed").quantizer

    def decoded(quantized: QuantizedTensor, context: TensorContext) -> Tensor:
        return torch.ones(2, requires_grad=True) * 2

    fixed.decoded = decoded  # type: ignore[method-assign]
    assert not stranger(fixed).decoded(fixed.quantize(X, CONTEXT), CONTEXT).requires_grad


def test_widths_that_a_message_could_have_had() -> None:
    for name, options, legal in (
        ("fixed", {"bits": 3}, (3, 3)),
        ("amaq", {"min_bits": 1, "max_bits": 7}, (1, 7)),
        ("none", {}, None),
    ):
        end = end_of(name, **options)
        assert end.legal_bits() is None  # nothing was sent
        end.quantize(X, CONTEXT)
        assert end.legal_bits() == legal or name == "none"


def test_a_state_that_does_not_fit_says_what_does_not() -> None:
    end = end_of("amaq")
    state = end.state_dict()
    name = next(name for name, tensor in state.items() if tensor.dim())
    with pytest.raises(InputError, match=f"the state does not fit: size mismatch for {name}: "):
        end.load_state_dict({**state, name: torch.zeros(3, 3)})
    del state[name]
    with pytest.raises(InputError, match=f'Missing key.* "{name}"'):
        end.load_state_dict(state)
