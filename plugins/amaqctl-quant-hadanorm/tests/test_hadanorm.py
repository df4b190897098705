"""The contract, the rotation against its matrix, and what each part is for."""

import pytest
import torch
from amaqctl_quant_hadanorm import HadaNormQuantizer

from amaqctl.errors import QuantizationError
from amaqctl.quantizer import Site, TensorContext
from amaqctl.testing import QuantizerContract


class TestHadaNorm(QuantizerContract):
    name = "hadanorm"


def build(num_channels, **options):
    config = HadaNormQuantizer.Config(**options)
    return HadaNormQuantizer(config, Site(0, "activation", num_channels, 64, 8, seed=17))


def context(step=0, training=True):
    return TensorContext("activation", 0, step, 10, training=training)


def error(x, **options):
    """‖x̂ - x‖ / ‖x‖."""
    quantized = build(x.shape[-1], **options).quantize(x, context())
    decoded = build(x.shape[-1], **options).dequantize(quantized, context())
    return float((decoded - x).norm() / x.norm())


def hadamard(size):
    """Sylvester's construction: each doubling stands [[H, H], [H, -H]] together."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


@pytest.mark.parametrize("num_channels, block", [(8, 8), (12, 4), (7, 1), (576, 64)])
def test_rotation_is_block_diagonal_hadamard(num_channels, block):
    x_RC = torch.arange(3.0 * num_channels).reshape(3, num_channels)
    expected = torch.block_diag(*[hadamard(block)] * (num_channels // block))
    quantizer = build(num_channels)
    assert torch.equal(quantizer._rotate(x_RC), x_RC @ expected.T)
    assert torch.equal(quantizer._rotate(quantizer._rotate(x_RC)) / block, x_RC)


def test_channel_scales_travel_once_and_are_frozen():
    sender, receiver = build(8), build(8)
    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    early = sender.quantize(x, context(training=False))
    assert "sigma" in early.side
    assert not sender.is_frozen
    first = sender.quantize(x, context())
    later = sender.quantize(100 * x, context(1))
    assert set(first.side) == {"mean", "sigma", "range"}
    assert set(later.side) == {"mean", "range"}
    with pytest.raises(QuantizationError, match="never received"):
        build(8).dequantize(later, context(1))
    receiver.dequantize(first, context())
    assert torch.equal(receiver.sigma_C, sender.sigma_C)
    centred = (x - first.side["mean"].float()).reshape(-1, 8)
    expected = centred.abs().mean(0).sqrt()
    assert torch.equal(sender.sigma_C, (expected / expected.max()).bfloat16().float())


def test_every_part_lowers_the_error_of_unlike_channels():
    x = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(1))
    x = x * torch.logspace(-1, 1, 64) + 5 * torch.randn(
        64, generator=torch.Generator().manual_seed(2)
    )
    off = {"center": False, "normalize": False, "hadamard": False}
    nothing, full = error(x, **off), error(x)
    assert full < 0.5 * nothing
    for part in off:
        assert error(x, **{part: False}) > full
        assert error(x, **{**off, part: True}) < nothing


def test_padding_does_not_move_the_mean():
    x = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(3))
    padded = torch.cat([x, torch.zeros(1, 5, 8)], dim=1)
    means = [build(8).quantize(t, context()).side["mean"] for t in (x, padded)]
    assert torch.equal(*means)
