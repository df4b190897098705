"""What every registered quantizer must do, whoever wrote it; everything goes through bytes."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from quantizer_cases import Case, all_cases
from torch import Tensor, nn

from amaqctl.bits import BitAllocation
from amaqctl.errors import QuantizationError
from amaqctl.quantizer import FLOAT_DTYPES, Quantizer, TensorContext, side_values
from amaqctl.wire import Message

every_case = pytest.mark.parametrize("case", all_cases(), ids=str)


def _context(case: Case, x: Tensor, step: int = 0, **changes: Any) -> TensorContext:
    rows = x.shape[0] if x.dim() == 3 else 0
    context = TensorContext(case.role, 0, step, 20, sample_ids=tuple(range(rows)))
    if case.role == "gradient":
        widths_C = torch.arange(x.shape[-1]).remainder(9).to(torch.uint8)
        context = replace(context, allocation=BitAllocation(widths_C, "channel"))
    return replace(context, **changes)


def _values(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Like hidden states: one channel an outlier, one a constant offset; negative zeros."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x[..., 0] *= 40.0
    x[..., -1] += 9.0
    x[..., : shape[-1] // 2][x[..., : shape[-1] // 2].abs() < 0.2] = -0.0
    return x


def _send(case: Case, sender: Quantizer, x: Tensor, context: TensorContext) -> bytes:
    with torch.no_grad():
        quantized = sender.quantize(x, context)
    return Message(case.name, context, quantized).to_bytes()


def _receive(receiver: Quantizer, data: bytes) -> Tensor:
    message = Message.from_bytes(data)
    with torch.no_grad():
        return receiver.dequantize(message.quantized, message.context)


def _train_step(case: Case, sender: Quantizer, x: Tensor, context: TensorContext) -> bytes:
    """Send, and learn what is learned."""
    data = _send(case, sender, x, context)
    _learn(sender, x, context)
    return data


def _learn(sender: Quantizer, x: Tensor, context: TensorContext) -> None:
    """Pull a gradient through the surrogate and move the parameters."""
    if context.role == "gradient" or not context.training:
        return
    stand_in = sender.surrogate(x.detach().clone().requires_grad_(), context)
    penalty = sender.penalty(context)
    loss = (stand_in * _values(tuple(x.shape), 5)).sum()
    (loss if penalty is None else loss + penalty).backward()
    with torch.no_grad():
        for parameter in sender.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
                parameter.grad = None


def _same_bits(a: Tensor, b: Tensor) -> bool:
    integer = torch.int32 if a.dtype == torch.float32 else torch.int16
    return (
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(integer), b.view(integer))
    )


@every_case
@pytest.mark.parametrize(
    "shape",
    [(2, 5, 12), (1, 1, 7), (3, 13, 9), (1, 17, 1), (0, 4, 6), (4, 8)],
    ids=str,
)
def test_twin_restores_shape_dtype_and_the_very_bits(case, shape):
    for dtype in FLOAT_DTYPES:
        _check_twin(case, _values(shape).to(dtype), training=False)
        # A memory of each sample needs a batch dimension.
        if len(shape) == 3 or (case.name, case.role) != ("aq-sgd", "activation"):
            _check_twin(case, _values(shape).to(dtype), training=True)


def _check_twin(case: Case, x: Tensor, *, training: bool) -> None:
    before = x.clone()
    sender, mirror, twin = (case.build(x.shape[-1]) for _ in range(3))
    for step in range(3 if training else 1):
        context = _context(case, x, step, training=training)
        with torch.no_grad():
            quantized = sender.quantize(x, context)
            mirrored = mirror.dequantize(quantized, context)
        decoded = _receive(twin, Message(case.name, context, quantized).to_bytes())
        _learn(sender, x, context)
        assert decoded.shape == x.shape
        assert decoded.dtype == x.dtype
        assert bool(decoded.isfinite().all())
        assert _same_bits(decoded, mirrored)
        assert _same_bits(x, before)


@every_case
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_constant_tensors_come_out_constant(case, dtype):
    for value in (0.0, -0.0, 3.7, -1e-30, 60000.0):
        _check_constant(case, torch.full((2, 5, 12), value).to(dtype))


def _check_constant(case: Case, x: Tensor) -> None:
    decoded = _receive(case.build(), _send(case, case.build(), x, _context(case, x)))
    # Ranges may travel in bfloat16: eight bits of mantissa. A width of zero drops a gradient.
    expected = x.clone()
    if dict(case.options).get("bits") == "received":
        expected[..., torch.arange(12).remainder(9) == 0] = 0
    tolerance = {"rtol": 2**-7, "atol": 1e-7}
    assert torch.allclose(decoded.double(), expected.double(), **tolerance)


@every_case
def test_largest_float16_values_stay_finite(case):
    x = torch.full((2, 5, 12), 65504.0, dtype=torch.float16)
    x[:, ::2] *= -1
    decoded = _receive(case.build(), _send(case, case.build(), x, _context(case, x)))
    assert bool(decoded.isfinite().all())


@every_case
def test_layout_in_memory_does_not_matter(case):
    x = _values((2, 12, 8)).transpose(1, 2)
    every_other = _values((2, 8, 24))[..., ::2]
    for strided in (x, every_other, x[:1].expand(3, 8, 12)):
        context = _context(case, strided)
        dense = strided.contiguous().clone()
        assert _send(case, case.build(), strided, context) == _send(
            case, case.build(), dense, context
        )


@every_case
def test_same_seed_gives_the_same_bytes_and_state_round_trips(case):
    sender, again, resumed = case.build(), case.build(), case.build()
    for step in range(4):
        x = _values((2, 8, 12), step)
        context = _context(case, x, step)
        assert _train_step(case, sender, x, context) == _train_step(case, again, x, context)
    state = {key: value.clone() for key, value in sender.state_dict().items()}
    resumed.load_state_dict(state)
    for step in range(4, 8):
        x = _values((2, 8, 12), step)
        context = _context(case, x, step)
        assert _train_step(case, sender, x, context) == _train_step(case, resumed, x, context)


@every_case
def test_evaluation_changes_no_state(case):
    sender, twin = case.build(), case.build()
    for step in range(3):
        x = _values((2, 8, 12), step)
        _receive(twin, _train_step(case, sender, x, _context(case, x, step)))
    ends = (sender, twin)
    before = [{k: v.clone() for k, v in end.state_dict().items()} for end in ends]
    x = _values((3, 6, 12), 9)
    for step in (3, 20):
        context = _context(case, x, step, sample_ids=(), training=False)
        data = _send(case, sender, x, context)
        assert data == _send(case, sender, x, context)
        _receive(twin, data)
        assert sender.surrogate(x, context) is x
    for end, state in zip(ends, before, strict=True):
        after = end.state_dict()
        assert list(after) == list(state)
        assert all(torch.equal(after[key], state[key]) for key in state)


@every_case
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_surrogate_has_finite_gradients(case, dtype):
    sender = case.build()
    for step in range(3):
        x = _values((2, 8, 12), step).to(dtype)
        context = _context(case, x, step)
        _send(case, sender, x, context)
        leaf = x.clone().requires_grad_()
        stand_in = sender.surrogate(leaf, context)
        assert (stand_in.shape, stand_in.dtype) == (x.shape, dtype)
        stand_in.backward(_values((2, 8, 12), 7).to(dtype))
        assert torch.equal(leaf.grad, _values((2, 8, 12), 7).to(dtype))  # straight-through
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in sender.parameters())


@every_case
def test_body_is_codes_sides_and_widths_to_the_byte(case):
    sender = case.build()
    for step in range(3):
        x = _values((2, 5, 12), step)
        context = _context(case, x, step)
        quantized = sender.quantize(x, context)
        data, sizes = Message(case.name, context, quantized).to_bytes_and_sizes()
        side = sum(t.numel() * t.itemsize for t in quantized.side.values())
        codes = widths = 0
        if quantized.codes is not None:
            widths_C = quantized.codes.allocation.widths_C.tolist()
            codes = -(-quantized.codes.num_rows // 8) * sum(widths_C)
            widths = -(-len(widths_C) // 2) if len(set(widths_C)) > 1 else 0
        header_length = int.from_bytes(data[6:8], "little")
        assert (sizes.codes, sizes.widths, sizes.side) == (codes, widths, side)
        assert len(data) == 16 + header_length + codes + widths + side


def _live_values() -> int:
    return sum(o.numel() for o in gc.get_objects() if type(o) in (Tensor, nn.Parameter))


@every_case
def test_memory_does_not_grow(case):
    sender, twin = case.build(), case.build()
    counts = []
    gc.freeze()  # leaves out what lives already: there are a million objects
    for step in range(16):
        x = _values((2, 8, 12), step)
        _receive(twin, _train_step(case, sender, x, _context(case, x, step)))
        if step in (5, 15):
            counts.append(_live_values())
    gc.unfreeze()
    assert counts[0] == counts[1]


@every_case
def test_options_are_described_and_strict(case):
    config_type = case.cls.Config
    config = config_type(**dict(case.options))
    assert config_type(**json.loads(config.model_dump_json())) == config
    assert all(field.description for field in config_type.model_fields.values())
    with pytest.raises(ValidationError, match="surprise"):
        config_type(surprise=1)
    with pytest.raises(ValidationError, match="frozen"):
        config.surprise = 1


def test_sides_refuse_what_is_not_finite():
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(QuantizationError, match="a scale is not finite"):
            side_values(torch.tensor([1.0, value]), "bfloat16")
    with pytest.raises(QuantizationError, match="a scale overflows float16"):
        side_values(torch.tensor([1e6]), "float16")
