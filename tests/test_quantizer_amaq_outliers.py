"""Outlier tokens: massive activations have ranges of their own and do not widen those of others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from column_grids import GridOverTensors
from torch import Tensor

from amaqctl.bits import PADDING, BitAllocation
from amaqctl.errors import QuantizationError
from amaqctl.quantizer import QuantizedTensor, Site, TensorContext
from amaqctl.quantizers.amaq import AmaqQuantizer
from amaqctl.quantizers.outlier_tokens import OUTLIER, kinds_of, kinds_of_rows, limit_of
from amaqctl.wire import Limits, Message

NUM_CHANNELS = 16
CONTEXT = TensorContext("activation", link=0, step=0, total_steps=10)
PROMPT = replace(CONTEXT, training=False)


def _grid(outlier_tokens: bool = True, center: bool = False) -> GridOverTensors:
    return GridOverTensors(
        axis="channel",
        scale="channel",
        center=center,
        clip="search",
        scale_dtype="float32",
        spare_code=True,
        outlier_tokens=outlier_tokens,
    )


def _quantizer(**options: Any) -> AmaqQuantizer:
    site = Site(0, "activation", NUM_CHANNELS, 32, 4, 17)
    return AmaqQuantizer(AmaqQuantizer.Config(**{"target_bits": 3, **options}), site)


def _hidden(num_tokens: int = 16, seed: int = 0, massive: float = 3000.0) -> Tensor:
    """(2, T, C); the first token of each sequence has one massive channel."""
    x = torch.randn((2, num_tokens, NUM_CHANNELS), generator=torch.Generator().manual_seed(seed))
    x[:, 0, 5] = massive + x[:, 0, 5]
    return x


def _message(sender: AmaqQuantizer, x: Tensor, context: TensorContext) -> bytes:
    return Message("amaq", context, sender.quantize(x, context)).to_bytes()


def _received(receiver: AmaqQuantizer, data: bytes) -> Tensor:
    came = Message.from_bytes(data, Limits(max_bytes=10**6, max_values=10**6))
    return receiver.dequantize(came.quantized, came.context)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("widths", [[3] * NUM_CHANNELS, [0, 1, 2, 8] * 4])
def test_the_others_are_coded_as_if_the_outliers_were_not_there(center, widths):
    x, grid = _hidden(), _grid(center=center)
    allocation = BitAllocation(torch.tensor(widths, dtype=torch.uint8), "channel")
    quantized = grid.encode(x, allocation)
    assert quantized.side["outlier_row"].tolist() == [0, 16]
    alone = grid.encode(x[:, 1:].contiguous(), allocation)
    assert torch.equal(quantized.side["range"], alone.side["range"])
    decoded = grid.decode(quantized)
    assert torch.equal(decoded[:, 1:], grid.decode(alone))
    first = x[:, :1].contiguous()
    of_first = _grid(outlier_tokens=False, center=center).encode(first, allocation)
    assert torch.allclose(quantized.side["outlier_range"], of_first.side["range"], rtol=1e-5)
    as_alone = _grid(outlier_tokens=False, center=center).decode(of_first)
    assert torch.allclose(decoded[:, :1], as_alone, rtol=1e-4, atol=1e-4)


def test_a_massive_token_spoils_its_channel_only_without():
    x = _hidden()
    allocation = BitAllocation.uniform(4, NUM_CHANNELS, "channel")
    errors = {}
    for is_on in (True, False):
        grid = _grid(outlier_tokens=is_on)
        decoded = grid.decode(grid.encode(x, allocation))
        errors[is_on] = float((decoded - x)[:, 1:, 5].square().mean())
    assert errors[True] < 0.02  # of unit variance, 4 bits
    assert errors[False] > 0.9  # all of it lost


def test_tokens_of_usual_size_send_nothing_more():
    x = _hidden(massive=0.0)
    allocation = BitAllocation.uniform(3, NUM_CHANNELS, "channel")
    quantized = _grid().encode(x, allocation)
    assert set(quantized.side) == {"range"}
    plain = _grid(outlier_tokens=False).encode(x, allocation)
    assert torch.equal(quantized.side["range"], plain.side["range"])


def test_padding_is_no_token_and_no_outlier():
    x = torch.cat([_hidden(), torch.zeros(2, 40, NUM_CHANNELS)], dim=1)
    quantized = _grid().encode(x, BitAllocation.uniform(3, NUM_CHANNELS, "channel"))
    assert quantized.side["outlier_row"].tolist() == [0, 56]  # though most rows are padding


def test_outliers_are_in_no_error_curve():
    grid = _grid()
    curves, ranges_K = grid.error_curves(_hidden(), range(9))
    others, others_ranges_K = grid.error_curves(_hidden()[:, 1:].contiguous(), range(9))
    assert torch.allclose(curves, others, rtol=1e-5)
    assert torch.equal(ranges_K, others_ranges_K)


def test_bytes_through_the_wire_decode_to_what_the_sender_decodes():
    sender, receiver = _quantizer(), _quantizer()
    x = _hidden()
    sent = sender.quantize(x, CONTEXT)
    plain = _quantizer(outlier_tokens=False).quantize(x, CONTEXT)
    data = Message("amaq", CONTEXT, sent).to_bytes()
    assert torch.equal(_received(receiver, data), sender.dequantize(sent, CONTEXT))
    more = sum(t.numel() * t.element_size() for t in sent.side.values())
    more -= sum(t.numel() * t.element_size() for t in plain.side.values())
    assert more == 2 * 4 + 2 * NUM_CHANNELS  # two rows, and a range a channel


def test_generated_tokens_of_any_size_decode_with_their_prompts_ranges():
    for massive in (3000.0, 0.0):  # a prompt with an outlier token, and one without
        sender, receiver = _quantizer(), _quantizer()
        _received(receiver, _message(sender, _hidden(massive=massive), PROMPT))
        for step, size in enumerate((0.0, 3000.0, 0.0)):
            here = replace(PROMPT, first_position=16 + step)
            token = _hidden(1, seed=step + 1, massive=size)
            sent = sender.quantize(token, here)
            rows = {"outlier_row"} if massive else {"outlier_row", "outlier_range"}
            assert set(sent.side) == (rows if size else set())
            data = Message("amaq", here, sent).to_bytes()
            decoded = _received(receiver, data)
            assert torch.equal(decoded, sender.dequantize(sent, here))
            assert float(decoded[0, 0, 5]) == pytest.approx(size, rel=0.2, abs=3.0)


@pytest.mark.parametrize("bits", [0, 1, 2, 4])
@pytest.mark.parametrize("loud", [1.0, 10.0])
def test_generated_tokens_like_their_prompt_send_no_ranges(bits: int, loud: float):
    sender = _quantizer(target_bits=bits, allocation="learned")
    with torch.no_grad():  # one loud channel that the loss does not feel, hence of no bits
        sender.gates_K[3] = -100.0

    def tokens(num_tokens: int, seed: int) -> Tensor:
        x_BTC = _hidden(num_tokens, seed, massive=0.0)
        x_BTC[..., 3] *= loud
        return x_BTC

    sender.quantize(tokens(16, 0), PROMPT)
    for number in range(20):
        here = replace(PROMPT, first_position=16 + number)
        assert set(sender.quantize(tokens(1, number + 1), here).side) == set()


def test_a_row_that_is_not_there_is_refused():
    grid = _grid()
    quantized = grid.encode(_hidden(), BitAllocation.uniform(3, NUM_CHANNELS, "channel"))
    for row in (-1, 32):
        side = {**quantized.side, "outlier_row": torch.tensor([row], dtype=torch.int32)}
        bad = QuantizedTensor(quantized.shape, quantized.dtype, quantized.codes, side)
        with pytest.raises(QuantizationError, match="outside the 32 rows"):
            grid.decode(bad)


@pytest.mark.parametrize("options", [{"axis": "position"}, {"scale": "token"}])
def test_other_layouts_have_no_outlier_tokens(options):
    assert _quantizer(**options).config.outlier_tokens is False
    with pytest.raises(ValueError, match="outlier_tokens needs axis: channel"):
        _quantizer(**options, outlier_tokens=True)
    assert AmaqQuantizer.Config(mode="paper").outlier_tokens is False


def test_a_token_is_an_outlier_above_six_times_the_median_of_all_tokens():
    peak_R = torch.tensor([1.0, 2.0, 1.0, 1.0, 12.0])
    limit = limit_of(peak_R)
    assert float(limit) == 6.0  # the median is 1
    assert kinds_of(peak_R, limit).tolist() == [0, 0, 0, 0, OUTLIER]
    peak_R[4] = 6.0  # not above it
    assert kinds_of(peak_R, limit).tolist() == [0] * 5
    peak_R[0] = 0.0
    assert kinds_of(peak_R, limit / 100).tolist() == [PADDING] + [OUTLIER] * 4
    assert kinds_of(peak_R, None).tolist() == [PADDING, 0, 0, 0, 0]


def test_the_limit_of_a_message_is_taken_over_its_tokens_alone():
    x = -torch.ones(1, 4, 3)
    x[0, 3] = 0.0  # padding
    assert float(_grid().inner.measure(x).limit) == 6.0
    x[0, :2] = 0.0
    x[0, 2] = -3.0
    assert float(_grid().inner.measure(x).limit) == 18.0
    assert float(_grid().inner.measure(x * 0).limit) == float("inf")


def test_a_message_tells_kinds_by_its_rows():
    assert kinds_of_rows(torch.tensor([1, 3], dtype=torch.int32), 4).tolist() == [0, 1, 0, 1]
    assert kinds_of_rows(torch.tensor([], dtype=torch.int32), 2).tolist() == [0, 0]
