"""The contract, and one tensor worked out by hand."""

import torch
from amaqctl_quant_ternary import TernaryQuantizer

from amaqctl.quantizer import Site, TensorContext
from amaqctl.testing import QuantizerContract


class TestTernary(QuantizerContract):
    name = "ternary"


def test_small_values_become_zero_and_the_rest_their_mean_magnitude():
    config = TernaryQuantizer.Config()
    quantizer = TernaryQuantizer(config, Site(0, "activation", 4, 8, 8, seed=17))
    context = TensorContext("activation", 0, step=0, total_steps=1)
    quantized = quantizer.quantize(torch.tensor([[[4.0, -6.0, 0.5, -1.5]]]), context)
    # The mean magnitude is 3, so 2.1 is the threshold; 4 and 6 stay, with the mean 5.
    assert quantized.codes.unpack().tolist() == [[1, -1, 0, 0]]
    assert quantized.side["scale"].tolist() == [[5.0]]
    assert quantizer.dequantize(quantized, context).tolist() == [[[5.0, -5.0, 0.0, 0.0]]]
