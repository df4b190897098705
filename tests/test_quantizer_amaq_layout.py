"""A well-formed message whose layout is not that of the options is refused, never broadcast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from amaqctl.bits import BitAllocation, PackedCodes
from amaqctl.quantizer import (
    LayoutError,
    QuantizedTensor,
    QuantizerEnd,
    Site,
    TensorContext,
)
from amaqctl.quantizers.amaq import AmaqQuantizer
from amaqctl.registry import QUANTIZERS, find

NUM_CHANNELS = 8
CONTEXT = TensorContext("activation", link=0, step=0, total_steps=4)
Side = dict[str, Tensor]


def _build(**options: Any) -> AmaqQuantizer:
    site = Site(0, "activation", NUM_CHANNELS, 8, 4, 17)
    return AmaqQuantizer(AmaqQuantizer.Config(**{"target_bits": 3, **options}), site)


def _quantized(massive: float = 0.0, **options: Any) -> QuantizedTensor:
    x = torch.randn((2, 8, NUM_CHANNELS), generator=torch.Generator().manual_seed(0))
    x[0, 0, 5] += massive
    return _build(**options).quantize(x, CONTEXT)


def _refused(quantized: QuantizedTensor, fault: str, **options: Any) -> None:
    """Before it is decoded; and, since a prompt may have completed it, while it is."""
    end = QuantizerEnd(find(QUANTIZERS, "amaq"), _build(**options))
    for decode in (end.dequantize, end.quantizer.dequantize):
        with pytest.raises(LayoutError, match=fault) as refused:
            decode(quantized, CONTEXT)
        assert "same options" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("options", "change", "fault"),
    [
        ({}, lambda side: side.pop("range"), "no side tensor 'range'"),
        ({}, lambda side: side.update(range=side["range"][:1]), r"expected .* of shape \(8,\)"),
        ({}, lambda side: side.update(range=side["range"][0]), r"of shape \(\);"),
        ({}, lambda side: side.update(range=side["range"].to(torch.int32)), "is torch.int32"),
        ({}, lambda side: side.update(range=side["range"].float()), "expected torch.bfloat16"),
        ({}, lambda side: side.update(more=side["range"]), "a side tensor 'more'"),
        ({}, lambda side: side.update(mean=side["range"]), "a side tensor 'mean'"),
        ({"center": True}, lambda side: side.pop("mean"), "no side tensor 'mean'"),
        (
            {"center": True},
            lambda side: side.update(mean=side["mean"].expand(8, 8).contiguous()),
            r"'mean' .* of shape \(8, 8\)",
        ),
        (
            {"scale": "token"},
            lambda side: side.update(token_range=side["token_range"][:1, :1]),
            r"expected .* of shape \(2, 8\)",
        ),
        (
            {"scale": "channel-token"},
            lambda side: side.pop("token_share"),
            "no side tensor 'token_share'",
        ),
        (
            {"axis": "position"},
            lambda side: side.update(range=side["range"].repeat(2)),
            r"of shape \(16,\)",
        ),
    ],
)
def test_side_tensors_are_those_of_the_options(
    options: dict[str, Any], change: Callable[[Side], Any], fault: str
) -> None:
    good = _quantized(**options)
    assert _build(**options).dequantize(good, CONTEXT).shape == (2, 8, NUM_CHANNELS)
    side = dict(good.side)
    change(side)
    _refused(replace(good, side=side), fault, **options)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda side: side.pop("outlier_range"), "no side tensor 'outlier_range'"),
        (lambda side: side.update(outlier_row=side["outlier_row"].float()), "expected torch.int32"),
        (lambda side: side.update(outlier_row=side["outlier_row"][:0]), r"shape \(1 to 16,\)"),
        (
            lambda side: side.update(outlier_row=side["outlier_row"].reshape(1, 1)),
            r"of shape \(1, 1\)",
        ),
    ],
)
def test_outlier_tokens_bring_a_list_of_rows_and_their_ranges(
    change: Callable[[Side], Any], fault: str
) -> None:
    good = _quantized(massive=1000.0)
    assert good.side["outlier_row"].tolist() == [0]
    side = dict(good.side)
    change(side)
    _refused(replace(good, side=side), fault)
    _refused(good, "a side tensor 'outlier_r", outlier_tokens=False)


@pytest.mark.parametrize(
    ("shape", "widths", "axis", "fault"),
    [
        ((16, 4), 3, "channel", "4 columns; expected 8"),
        ((8, 8), 3, "channel", "8 rows; expected 16"),
        ((16, 8), 3, "position", "by position; expected by channel"),
        ((16, 8), 16, "channel", "codes of 16 bits"),
    ],
)
def test_codes_fit_the_shape(shape: tuple[int, int], widths: int, axis: Any, fault: str) -> None:
    codes = PackedCodes.pack(
        torch.zeros(shape, dtype=torch.int32), BitAllocation.uniform(widths, shape[1], axis)
    )
    _refused(replace(_quantized(), codes=codes), fault)


def test_a_message_without_codes_is_refused() -> None:
    _refused(replace(_quantized(), codes=None), "no codes")
