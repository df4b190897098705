"""`fixed` and `group`: values by hand, each scale axis, reused widths, stochastic rounding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from amaqctl.bits import BitAllocation
from amaqctl.errors import QuantizationError
from amaqctl.quantizer import QuantizedTensor, Quantizer, Site, TensorContext
from amaqctl.quantizers.fixed import FixedQuantizer
from amaqctl.quantizers.group import GroupQuantizer

CONTEXT = TensorContext("gradient", link=0, step=0, total_steps=10)


def _build(cls: type[Quantizer], seed: int = 17, **options: Any) -> Quantizer:
    return cls(cls.Config(**options), Site(0, "gradient", 4, 32, 4, seed))


def _round_trip(
    cls: type[Quantizer], x: Tensor, context: TensorContext = CONTEXT, **options: Any
) -> tuple[Tensor, QuantizedTensor]:
    quantized = _build(cls, **options).quantize(x, context)
    return _build(cls, **options).dequantize(quantized, context), quantized


X = torch.tensor([[[7.0, -1.0, 0.4, 0.0], [-3.5, 2.0, 14.0, 0.0]]])


@pytest.mark.parametrize(
    ("scale", "sent_range", "expected"),
    [
        # 4 bits, n = 7. One step of 2: 7 / 2 = 3.5 and -3.5 / 2 = -1.75 round half to even.
        ("tensor", [[14.0]], [[8.0, 0.0, 0.0, 0.0], [-4.0, 2.0, 14.0, 0.0]]),
        # Steps of 1 and 2.
        ("token", [[7.0], [14.0]], [[7.0, -1.0, 0.0, 0.0], [-4.0, 2.0, 14.0, 0.0]]),
        # Steps of 1, 2/7, 2 and none. In float32 -1 / (2/7) is a hair short of -3.5.
        ("channel", [[7.0, 2.0, 14.0, 0.0]], [[7.0, -6 / 7, 0.0, 0.0], [-4.0, 2.0, 14.0, 0.0]]),
    ],
)
def test_fixed_by_hand_on_each_scale_axis(scale, sent_range, expected):
    decoded, quantized = _round_trip(FixedQuantizer, X, bits=4, scale=scale)
    assert quantized.side["range"].dtype == torch.bfloat16
    assert quantized.side["range"].float().tolist() == sent_range
    assert torch.allclose(decoded[0], torch.tensor(expected), rtol=1e-6)


def test_fixed_at_one_bit_is_sign_times_mean_magnitude():
    decoded, quantized = _round_trip(FixedQuantizer, X, bits=1, scale="channel")
    assert quantized.side["range"].float().tolist() == [[5.25, 1.5, 7.1875, 0.0]]
    expected = [[5.25, -1.5, 7.1875, 0.0], [-5.25, 1.5, 7.1875, 0.0]]
    assert decoded[0].tolist() == expected
    decoded, quantized = _round_trip(FixedQuantizer, X, bits=1, scale="token")
    assert quantized.side["range"].float().tolist() == [[2.09375], [4.875]]
    assert decoded[0, :, 0].tolist() == [2.09375, -4.875]


def test_range_is_rounded_before_it_is_used():
    x = torch.tensor([[[257.0], [128.5]]])  # bfloat16 has no 257: 256 is sent, and is the top
    decoded, quantized = _round_trip(FixedQuantizer, x, bits=8, scale="tensor")
    assert quantized.side["range"].float().item() == 256.0
    assert decoded.flatten().tolist() == pytest.approx([256.0, 64 * 256 / 127], rel=1e-6)


def test_received_widths_are_those_of_the_context():
    widths_C = torch.tensor([0, 1, 2, 8], dtype=torch.uint8)
    context = replace(CONTEXT, allocation=BitAllocation(widths_C, "channel"))
    x = torch.tensor([[[5.0, -3.0, 4.0, 127.0], [6.0, 1.0, -1.0, -60.0]]])
    decoded, quantized = _round_trip(FixedQuantizer, x, context, bits="received")
    assert quantized.codes.allocation == context.allocation
    # Not sent; sign times the mean magnitude; -1, 0, 1 times 4; steps of 1.
    assert decoded[0].tolist() == [[0.0, -2.0, 4.0, 127.0], [0.0, 2.0, 0.0, -60.0]]


def test_received_widths_are_needed_and_must_be_of_channels():
    quantizer = _build(FixedQuantizer, bits="received")
    for allocation in (None, BitAllocation.uniform(4, 2, "position")):
        with pytest.raises(QuantizationError, match="no received channel widths") as caught:
            quantizer.quantize(X, replace(CONTEXT, allocation=allocation))
        assert caught.value.where == "link 0 gradient"


@pytest.mark.parametrize("scale", ["token", "tensor"])
def test_one_bit_beside_more_needs_a_scale_a_channel(scale):
    widths_C = torch.tensor([1, 4, 4, 4], dtype=torch.uint8)
    context = replace(CONTEXT, allocation=BitAllocation(widths_C, "channel"))
    with pytest.raises(QuantizationError, match="cannot share a scale") as caught:
        _build(FixedQuantizer, bits="received", scale=scale).quantize(X, context)
    assert "scale: channel" in caught.value.hint


def test_received_from_none_is_eight_bits():
    for num_columns in (4, 8):  # bfloat16 and float32 through `none`
        context = replace(CONTEXT, allocation=BitAllocation.uniform(16, num_columns, "channel"))
        _, quantized = _round_trip(FixedQuantizer, X, context, bits="received")
        assert quantized.codes.allocation.widths_C.tolist() == [8, 8, 8, 8]


@pytest.mark.parametrize("bits", [0, 9, -1, "some", 2.5, None])
def test_fixed_refuses_other_widths(bits):
    with pytest.raises(ValidationError, match="bits"):
        FixedQuantizer.Config(bits=bits)


def test_group_by_hand_with_a_short_last_group():
    x = torch.tensor([[[7.0, -3.0, 21.0, 0.0, 1.0]]])
    decoded, quantized = _round_trip(GroupQuantizer, x, bits=4, group_size=2)
    assert quantized.side["range"].float().tolist() == [[7.0, 21.0, 1.0]]
    assert decoded.flatten().tolist() == pytest.approx([7.0, -3.0, 21.0, 0.0, 1.0], rel=1e-6)
    # At one bit the short group's mean is taken over what it holds.
    decoded, quantized = _round_trip(GroupQuantizer, x, bits=1, group_size=2)
    assert quantized.side["range"].float().tolist() == [[5.0, 10.5, 1.0]]
    assert decoded.flatten().tolist() == [5.0, -5.0, 10.5, 10.5, 1.0]


def test_group_zero_point_by_hand():
    x = torch.tensor([[[-3.0, 12.0, 5.0, 0.0, 15.0, 2.2]]])
    decoded, quantized = _round_trip(GroupQuantizer, x, bits=4, group_size=3, zero_point=True)
    # Groups span [-3, 12] and, widened to hold zero, [0, 15]; both have 15 steps of 1.
    assert quantized.side["range"].float().tolist() == [[15.0, 15.0]]
    assert quantized.side["zero_point"].tolist() == [[-5, -8]]
    assert quantized.codes.unpack().tolist() == [[-8, 7, 0, -8, 7, -6]]
    assert decoded.flatten().tolist() == [-3.0, 12.0, 5.0, 0.0, 15.0, 2.0]


def test_group_zero_point_of_a_negative_group_and_of_zeros():
    x = torch.tensor([[[-15.0, -1.0, 0.0, 0.0]]])
    decoded, quantized = _round_trip(GroupQuantizer, x, bits=4, group_size=2, zero_point=True)
    assert quantized.side["zero_point"].tolist() == [[7, -8]]
    assert decoded.flatten().tolist() == [-15.0, -1.0, 0.0, 0.0]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("zero_point", [False, True])
def test_group_error_is_at_most_half_a_step(bits, zero_point):
    x = torch.randn((3, 7, 30), generator=torch.Generator().manual_seed(bits)) + 0.5
    decoded, quantized = _round_trip(
        GroupQuantizer, x, bits=bits, group_size=8, zero_point=zero_point, scale_dtype="float32"
    )
    num_steps = 2**bits - 1 if zero_point else 2 ** (bits - 1) - 1
    step_RG = quantized.side["range"] / num_steps
    step_BTC = step_RG.repeat_interleave(8, dim=1)[:, :30].reshape(3, 7, 30)
    # The zero point is rounded too, so an end of the asymmetric grid may lie half a step inside.
    limit = 1.0 if zero_point else 0.5
    assert bool(((decoded - x).abs() <= step_BTC * limit * (1 + 1e-5)).all())


def test_a_group_larger_than_the_token_is_the_token():
    whole, few = (_round_trip(GroupQuantizer, X, group_size=size)[1] for size in (10**9, 4))
    assert whole.side["range"].shape == (2, 1)
    assert torch.equal(whole.side["range"], few.side["range"])
    assert torch.equal(whole.codes.data, few.codes.data)


def test_group_refuses_a_zero_point_of_a_sign():
    with pytest.raises(ValidationError, match="zero_point needs bits of 2 or more"):
        GroupQuantizer.Config(bits=1, zero_point=True)


@pytest.mark.parametrize("cls", [FixedQuantizer, GroupQuantizer])
def test_stochastic_rounding_is_unbiased_and_depends_on_seed_place_and_step_alone(cls):
    options = {"bits": 3, "rounding": "stochastic", "scale_dtype": "float32"}
    num_draws = 4000
    x = torch.linspace(-1.0, 1.0, 41).expand(1, num_draws, 41)
    options |= {"scale": "tensor"} if cls is FixedQuantizer else {"group_size": 41}
    decoded, _ = _round_trip(cls, x, **options)
    # A draw is one of two neighbours 1/3 apart: standard error below 1/6 / sqrt(draws) = 0.0026.
    assert float((decoded.double().mean(1) - x[:, 0]).abs().max()) < 5 * 0.0027
    x = x[:, :4]

    def data(context: TensorContext, seed: int = 17) -> list[int]:
        return _build(cls, seed=seed, **options).quantize(x, context).codes.data.tolist()

    first = data(CONTEXT)
    assert data(CONTEXT) == first
    assert data(replace(CONTEXT, sample_ids=(3,), total_steps=99, training=False)) == first
    for changed in (
        replace(CONTEXT, step=1),
        replace(CONTEXT, link=1),
        replace(CONTEXT, micro_batch=1),
        replace(CONTEXT, role="activation"),
    ):
        assert data(changed) != first
    assert data(CONTEXT, seed=18) != first


@pytest.mark.parametrize("cls", [FixedQuantizer, GroupQuantizer])
def test_zero_stays_exactly_zero_and_positive_under_stochastic_rounding(cls):
    x = torch.randn((2, 9, 12), generator=torch.Generator().manual_seed(0))
    x[:, 4:] = -0.0
    decoded, _ = _round_trip(cls, x, bits=2, rounding="stochastic")
    assert bool((decoded[:, 4:].view(torch.int32) == 0).all())
