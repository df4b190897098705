"""Noise of stochastic rounding: its values are those that runs of earlier versions drew."""

from __future__ import annotations

from dataclasses import replace

import torch

from amaqctl.quantizer import Site, TensorContext, rounding_noise

SITE = Site(3, "gradient", 4, 8, 3, 17)
CONTEXT = TensorContext("gradient", 3, 5, 10, micro_batch=2)
# The polynomial of the parts in 1,000,003, modulo 2^61, by hand; a run that is gone on with
# needs the very same.
SEEDS = [
    (SITE, CONTEXT, 120191673074112453),
    (replace(SITE, seed=0), TensorContext("activation", 0, 0, 10), 1168770150066733049),
    (
        replace(SITE, seed=2**32 - 1),
        replace(CONTEXT, link=2**31 - 1, step=10**6),
        889492232403637272,
    ),
]


def test_noise_is_a_pure_function_of_seed_place_and_step() -> None:
    like_RC = torch.zeros(5, 3)
    for site, context, seed in SEEDS:
        expected = torch.rand(5, 3, generator=torch.Generator().manual_seed(seed))
        drawn = rounding_noise("stochastic", like_RC, site, context)
        assert drawn is not None
        assert torch.equal(drawn, expected)
        torch.rand(7)  # what others draw does not matter
        again = rounding_noise("stochastic", like_RC, site, context)
        assert again is not None
        assert torch.equal(again, expected)


def test_nearest_draws_nothing() -> None:
    assert rounding_noise("nearest", torch.zeros(2, 2), SITE, CONTEXT) is None
