"""Options of the built-in quantizers, by default and at their bounds, and declared layouts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from amaqctl import registry
from amaqctl.bits import BitAllocation, PackedCodes
from amaqctl.quantizer import Quantizer, QuantizerEnd, Site, TensorContext
from amaqctl.quantizer.layout import CodesLayout, LayoutError, SideLayout

CONTEXT = TensorContext("gradient", link=0, step=0, total_steps=10)
SHAPE = (2, 3, 10)


def build(name: str, options: dict[str, Any]) -> Quantizer:
    cls = registry.load(registry.QUANTIZERS, name)
    return cls(cls.Config(**options), Site(0, "gradient", SHAPE[-1], 32, 4, 17))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "fixed",
            {"bits": 4, "scale": "channel", "rounding": "nearest", "scale_dtype": "bfloat16"},
        ),
        (
            "group",
            {
                "bits": 4,
                "group_size": 64,
                "zero_point": False,
                "rounding": "nearest",
                "scale_dtype": "bfloat16",
            },
        ),
        (
            "aq-sgd",
            {
                "bits": 4,
                "scale": "channel",
                "rounding": "nearest",
                "memory_dtype": "float16",
                "memory_limit_mib": 65536,
                "scale_dtype": "bfloat16",
            },
        ),
    ],
)
def test_defaults_are_those_that_profiles_rely_on(name: str, expected: dict[str, Any]) -> None:
    assert registry.load(registry.QUANTIZERS, name).Config().model_dump() == expected


@pytest.mark.parametrize(
    ("name", "option", "lowest", "highest"),
    [
        ("fixed", "bits", 1, 8),
        ("group", "bits", 1, 8),
        ("group", "group_size", 1, None),
        ("aq-sgd", "bits", 2, 8),
        ("aq-sgd", "memory_limit_mib", 1, None),
    ],
)
def test_bounds_of_options(name: str, option: str, lowest: int, highest: int | None) -> None:
    config = registry.load(registry.QUANTIZERS, name).Config
    for legal in {lowest, highest or 10**6}:
        assert getattr(config(**{option: legal}), option) == legal
    for illegal in {lowest - 1} | ({highest + 1} if highest else set()):
        with pytest.raises(ValidationError, match=option):
            config(**{option: illegal})


RANGES = {"tensor": (1, 1), "token": (6, 1), "channel": (1, 10)}


@pytest.mark.parametrize("scale", RANGES)
@pytest.mark.parametrize("scale_dtype", ["bfloat16", "float32"])
def test_the_layout_of_fixed(scale: str, scale_dtype: str) -> None:
    options = {"bits": 3, "scale": scale, "scale_dtype": scale_dtype}
    layout = build("fixed", options).layout(SHAPE, torch.float32, CONTEXT, None)
    assert layout.codes == CodesLayout(6, 10, "tensor", (3,))
    assert layout.side == {"range": SideLayout(getattr(torch, scale_dtype), RANGES[scale])}


def test_the_layout_of_received_widths() -> None:
    options = {"bits": "received", "scale": "channel"}
    layout = build("fixed", options).layout(SHAPE, torch.float32, CONTEXT, None)
    assert layout.codes is not None
    assert (layout.codes.num_rows, layout.codes.num_columns) == (6, 10)
    assert (layout.codes.axis, list(layout.codes.widths)) == ("channel", list(range(9)))


@pytest.mark.parametrize("zero_point", [False, True])
@pytest.mark.parametrize(("size", "num_groups"), [(4, 3), (5, 2), (10, 1), (64, 1), (1, 10)])
def test_the_layout_of_group(zero_point: bool, size: int, num_groups: int) -> None:
    options = {"bits": 3, "group_size": size, "zero_point": zero_point}
    layout = build("group", options).layout(SHAPE, torch.float32, CONTEXT, None)
    assert layout.codes == CodesLayout(6, 10, "tensor", (3,))
    side = {"range": SideLayout(torch.bfloat16, (6, num_groups))}
    if zero_point:
        side["zero_point"] = SideLayout(torch.int8, (6, num_groups))
    assert layout.side == side


CASES: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    *(("fixed", {"scale": scale}) for scale in RANGES),
    ("group", {"group_size": 4}),
    ("group", {"group_size": 4, "zero_point": True}),
    ("aq-sgd", {}),
    ("amaq", {"target_bits": 3.0}),
    ("amaq", {"target_bits": 3.0, "scale": "token"}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_what_is_sent_is_as_declared_and_one_row_more_is_not(
    name: str, options: dict[str, Any]
) -> None:
    quantizer = build(name, options)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    sent = quantizer.quantize(x, CONTEXT)
    assert sent.codes is not None
    layout = quantizer.layout(SHAPE, x.dtype, CONTEXT, sent.codes.allocation)
    layout.check(sent)
    allocation = sent.codes.allocation
    more = torch.zeros((sent.codes.num_rows + 1, allocation.num_columns), dtype=torch.int16)
    with pytest.raises(LayoutError):
        layout.check(replace(sent, codes=PackedCodes.pack(more, allocation)))
    other = "position" if allocation.axis != "position" else "tensor"
    turned = BitAllocation(allocation.widths_C, other)
    codes = PackedCodes(sent.codes.data, sent.codes.num_rows, turned)
    with pytest.raises(LayoutError):
        layout.check(replace(sent, codes=codes))
    with pytest.raises(LayoutError):
        layout.check(replace(sent, side={**sent.side, "more": torch.zeros(1)}))
    for left_out in sent.side:
        rest = {key: tensor for key, tensor in sent.side.items() if key != left_out}
        with pytest.raises(LayoutError):
            layout.check(replace(sent, side=rest))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_an_empty_tensor_goes_through(name: str, options: dict[str, Any]) -> None:
    quantizer = build(name, options)
    sent = quantizer.quantize(torch.zeros((0, 3, 10)), CONTEXT)
    assert build(name, options).dequantize(sent, CONTEXT).shape == (0, 3, 10)


def remembering(**options: Any) -> tuple[Quantizer, TensorContext]:
    cls = registry.load(registry.QUANTIZERS, "aq-sgd")
    context = replace(CONTEXT, role="activation", sample_ids=(3, 1))
    return cls(cls.Config(**options), Site(0, "activation", SHAPE[-1], 32, 4, 17)), context


@pytest.mark.parametrize(
    ("scale", "ranges"), [("channel", (1, 10)), ("token", (range(3, 7, 3), 1))]
)
def test_the_layout_of_changes_and_first_visits(scale: str, ranges: tuple[Any, int]) -> None:
    quantizer, context = remembering(scale=scale)
    of_first_visits = {
        "visits": SideLayout(torch.int32, (2,)),
        "full": SideLayout(torch.float16, (range(1, 3), 3, 10), optional=True),
    }
    for allocation, side in (
        (None, of_first_visits),
        (
            BitAllocation.uniform(4, 10),
            {"range": SideLayout(torch.bfloat16, ranges), **of_first_visits},
        ),
    ):
        layout = quantizer.layout(SHAPE, torch.float16, context, allocation)
        assert layout.codes == CodesLayout(range(3, 7, 3), 10, "tensor", (4,), True)
        assert layout.side == side
    empty = quantizer.layout((2, 0, 10), torch.float16, context, None)
    assert empty.codes == CodesLayout(0, 10, "tensor", (4,), True)


def test_changes_without_their_range_are_refused_and_ranges_without_changes() -> None:
    (sender, context), (receiver, _) = remembering(), remembering()
    x = torch.ones(SHAPE)
    first = sender.quantize(x, context)
    changes = sender.quantize(x, context)
    end = QuantizerEnd(registry.find(registry.QUANTIZERS, "aq-sgd"), receiver)
    with pytest.raises(LayoutError, match="a side tensor 'range' where there are visits, full"):
        end.dequantize(replace(first, side={**first.side, "range": changes.side["range"]}), context)
    end.dequantize(first, context)
    rest = {key: tensor for key, tensor in changes.side.items() if key != "range"}
    with pytest.raises(LayoutError, match="no side tensor 'range'"):
        end.dequantize(replace(changes, side=rest), context)
    assert torch.equal(end.dequantize(changes, context), x)


def test_the_sender_of_changes_knows_what_was_decoded() -> None:
    (sender, context), (receiver, _) = remembering(), remembering()
    for step in range(3):
        x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(step))
        sent = sender.quantize(x, context)
        decoded = receiver.dequantize(sent, context)
        assert torch.equal(sender.decoded(sent, context), decoded)
        assert decoded.shape == SHAPE
