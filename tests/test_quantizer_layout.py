"""`Layout`: what fits passes, and each thing that does not is told by its own words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from amaqctl.bits import Axis, BitAllocation, PackedCodes
from amaqctl.quantizer import QuantizedTensor
from amaqctl.quantizer.layout import CodesLayout, Layout, LayoutError, SideLayout, check_finite

HINT = "sender and receiver need the same options of the same quantizer"
CODES = CodesLayout(num_rows=range(1, 5), num_columns=4, axis="channel", widths=(3, 2, 4))
SIDE = {
    "scale": SideLayout(torch.float32, (4,)),
    "low": SideLayout(torch.float16, (range(2, 7, 2), 4), optional=True),
    "high": SideLayout(torch.float16, (1, 4), optional=True),
}
LAYOUT = Layout(CODES, SIDE, together=[frozenset({"low", "high"})])


def codes(rows: int = 4, columns: int = 4, axis: Axis = "channel", width: int = 3) -> PackedCodes:
    widths_C = torch.full((columns,), width, dtype=torch.uint8)
    return PackedCodes.pack(
        torch.zeros(rows, columns, dtype=torch.int8), BitAllocation(widths_C, axis)
    )


def message(packed: PackedCodes | None, **side: Tensor) -> QuantizedTensor:
    return QuantizedTensor((1, 4, 4), torch.float32, packed, side)


def half(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float16)


SCALE = torch.ones(4)
BOTH = {"low": half(2, 4), "high": half(1, 4)}


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("optional", [{}, BOTH, BOTH | {"low": half(6, 4)}])
def test_what_fits_passes(rows: int, width: int, optional: dict[str, Tensor]) -> None:
    LAYOUT.check(message(codes(rows, width=width), scale=SCALE, **optional))


REFUSED = {
    "no codes": (message(None, scale=SCALE), "no codes"),
    "no rows": (message(codes(0), scale=SCALE), "codes of 0 rows; expected 1 to 4"),
    "too many rows": (message(codes(5), scale=SCALE), "codes of 5 rows; expected 1 to 4"),
    "columns": (message(codes(columns=3), scale=SCALE), "codes of 3 columns; expected 4"),
    "axis": (
        message(codes(axis="position"), scale=SCALE),
        "codes by position; expected by channel",
    ),
    "width": (message(codes(width=5), scale=SCALE), "codes of 5 bits; expected 2, 3, 4"),
    "no side tensor": (message(codes()), "no side tensor 'scale'"),
    "a side tensor too many": (
        message(codes(), scale=SCALE, more=SCALE),
        "a side tensor 'more' where there are scale, low, high",
    ),
    "dtype": (
        message(codes(), scale=half(4)),
        "side tensor 'scale' is torch.float16 of shape (4,); expected torch.float32 of shape (4,)",
    ),
    "length": (
        message(codes(), scale=torch.ones(1)),
        "side tensor 'scale' is torch.float32 of shape (1,); expected torch.float32 of shape (4,)",
    ),
    "dimensions": (
        message(codes(), scale=torch.ones(4, 1)),
        "side tensor 'scale' is torch.float32 of shape (4, 1); "
        "expected torch.float32 of shape (4,)",
    ),
    "not a multiple": (
        message(codes(), scale=SCALE, **BOTH | {"low": half(3, 4)}),
        "side tensor 'low' is torch.float16 of shape (3, 4); "
        "expected torch.float16 of shape (2 to 6 by 2, 4)",
    ),
    "the second without the first": (
        message(codes(), scale=SCALE, high=half(1, 4)),
        "no side tensor 'low'",
    ),
    "the first without the second": (
        message(codes(), scale=SCALE, low=half(2, 4)),
        "no side tensor 'high'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_told_by_name(name: str) -> None:
    quantized, said = REFUSED[name]
    with pytest.raises(LayoutError) as refused:
        LAYOUT.check(quantized)
    assert refused.value.message == f"a message of another layout: {said}"
    assert refused.value.hint == HINT


def test_a_method_without_codes_gets_none() -> None:
    layout = Layout(None)
    layout.check(message(None))
    with pytest.raises(LayoutError, match="codes where there are none"):
        layout.check(message(codes()))
    with pytest.raises(LayoutError, match="a side tensor 'scale' where there are none"):
        layout.check(message(None, scale=SCALE))


def test_optional_codes_may_be_missing_and_are_checked_where_they_are() -> None:
    layout = Layout(CodesLayout(2, 4, "channel", {8}, optional=True))
    layout.check(message(None))
    layout.check(message(codes(2, width=8)))
    with pytest.raises(LayoutError, match="codes of 4 bits; expected 8"):
        layout.check(message(codes(2, width=4)))


def test_a_length_that_may_be_nothing_is_said() -> None:
    layout = Layout(None, {"scale": SideLayout(torch.float32, (range(0),))})
    with pytest.raises(LayoutError, match=r"expected torch.float32 of shape \(none,\)"):
        layout.check(message(None, scale=SCALE))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_side_tensors_are_finite(value: float) -> None:
    check_finite(message(None, scale=SCALE, counts=torch.tensor([2**31 - 1], dtype=torch.int32)))
    with pytest.raises(LayoutError, match="side tensor 'scale' holds NaN or infinity"):
        check_finite(message(None, low=SCALE, scale=torch.tensor([0.0, value])))
