"""Outlier tokens: massive activations have ranges of their own and do not widen those of others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from amaqctl.bits import BitAllocation
from amaqctl.errors import QuantizationError
from amaqctl.quantizer import QuantizedTensor, Site, TensorContext
from amaqctl.quantizers.amaq import AmaqQuantizer
from amaqctl.quantizers.mixed_grid import MixedGrid
from amaqctl.quantizers.outlier_tokens import by_row, is_outlier, limit_of
from amaqctl.wire import Limits, Message

NUM_CHANNELS = 16
CONTEXT = TensorContext("activation", link=0, step=0, total_steps=10)
PROMPT = replace(CONTEXT, training=False)


def _grid(outlier_tokens: bool = True, center: bool = False) -> MixedGrid:
    return MixedGrid(
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
    # Not to the bit: zeros among the summands change the order of a sum.
    assert torch.allclose(quantized.side["range"], alone.side["range"], rtol=1e-5)
    decoded = grid.decode(quantized)
    assert torch.allclose(decoded[:, 1:], grid.decode(alone), rtol=1e-4, atol=1e-4)
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
    x = torch.ones(1, 5, 3)
    x[0, 1] = -2.0  # negative values are values of a token too
    x[0, 4, 2] = 12.0
    limit = limit_of(x, (x != 0).any(-1, keepdim=True))
    assert float(limit) == 6.0  # the median of 1, 2, 1, 1, 12 is 1
    assert is_outlier(x, (x != 0).any(-1, keepdim=True), limit).flatten().tolist() == [
        False,
        False,
        False,
        False,
        True,
    ]
    x[0, 4, 2] = 6.0  # not above it
    assert not bool(is_outlier(x, (x != 0).any(-1, keepdim=True), limit).any())
    assert not bool(is_outlier(x, torch.zeros(1, 5, 1, dtype=torch.bool), limit / 100).any())


def test_the_limit_of_a_message_is_taken_over_its_tokens_alone():
    x = -torch.ones(1, 4, 3)
    x[0, 3] = 0.0  # padding
    assert float(_grid().outlier_limit(x)) == 6.0
    x[0, :2] = 0.0
    x[0, 2] = -3.0
    assert float(_grid().outlier_limit(x)) == 18.0


def test_without_tokens_nothing_is_an_outlier():
    x = torch.zeros(2, 3, 4)
    none = torch.zeros(2, 3, 1, dtype=torch.bool)
    assert float(limit_of(x, none)) == torch.inf
    empty = torch.zeros(2, 0, 4)
    assert is_outlier(empty, none[:, :0], torch.tensor(1.0)).shape == (2, 0, 1)


def test_rows_of_their_own_are_put_where_they_are_said_to_be():
    usual, own = torch.zeros(1, 2), torch.ones(2)
    rows = torch.tensor([3, 0], dtype=torch.int32)
    assert by_row(usual, own, rows, (2, 2)).sum(1).tolist() == [2.0, 0.0, 0.0, 2.0]
    assert by_row(usual, own, rows[:0], (2, 2)).sum() == 0
    for wrong in ([-1, 2], [2, 4]):
        with pytest.raises(QuantizationError, match="outside the 4 rows"):
            by_row(usual, own, torch.tensor(wrong, dtype=torch.int32), (2, 2))


def test_columns_without_a_token_lose_nothing():
    """A mean over no tokens is 0, not NaN."""
    error_WK, _ = _grid().error_curves(torch.zeros(1, 4, NUM_CHANNELS), [2, 3])
    assert error_WK.tolist() == [[0.0] * NUM_CHANNELS] * 2
