"""The Gaussian limit against cases worked out by hand, and the moments it is made from."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amaqctl.trace.rate_distortion import ChannelMoments, decibels_above, least_distortion


def variances(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("variances_K", "bits", "expected"),
    [
        (variances(4.0), 0, 4.0),
        (variances(4.0), 1, 1.0),  # σ² · 2^(-2R)
        (variances(4.0, 4.0, 4.0), 3, 4.0 / 64),
        # Variances 16 and 1: up to one bit a value the second channel stays under water.
        (variances(16.0, 1.0), 0, 8.5),
        (variances(16.0, 1.0), 0.5, 2.5),  # all two half bits to the first: 16 / 4 = 4
        (variances(1.0, 16.0), 1, 1.0),
        (variances(16.0, 1.0), 2, 0.25),  # geometric mean 4, divided by 2^4
        (variances(4.0, 0.0), 1, 0.125),  # a dead channel leaves its bits to the other: 4 / 2^4
        (variances(0.0, 0.0), 3, 0.0),
    ],
)
def test_hand_cases(variances_K, bits, expected):
    assert least_distortion(variances_K, bits) == pytest.approx(expected, rel=1e-12)


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40),
    st.floats(0, 8),
)
def test_the_rate_of_the_least_distortion_is_the_rate_asked_for(values, bits):
    variances_K = variances(*values)
    distortion = least_distortion(variances_K, bits)
    low, high = 0.0, max(values)  # find the water level that has this distortion
    for _ in range(200):
        level = (low + high) / 2
        mean = float(variances_K.clamp(max=level).mean())
        low, high = (level, high) if mean < distortion else (low, level)
    rate = float((0.5 * (variances_K / variances_K.clamp(max=high)).log2()).mean())
    assert rate == pytest.approx(bits, abs=1e-5)


def test_decibels_are_ten_a_factor_of_ten_and_six_a_bit():
    variances_K = variances(4.0, 4.0)
    assert decibels_above(10.0, variances_K, 1) == pytest.approx(10.0)
    gained = decibels_above(1.0, variances_K, 2) - decibels_above(1.0, variances_K, 1)
    assert gained == pytest.approx(20 * math.log10(2))
    assert decibels_above(0.0, variances_K, 1) is None
    assert decibels_above(1.0, variances(0.0), 1) is None


def test_moments_of_parts_are_those_of_the_whole():
    rows_RC = torch.randn(50, 7, generator=torch.Generator().manual_seed(1)) * 3 + 1000
    moments = ChannelMoments(7)
    for part in (rows_RC[:1], rows_RC[1:1], rows_RC[1:20], rows_RC[20:]):
        moments.add(part)
    assert moments.num_rows == 50
    expected = rows_RC.double().var(0, correction=0)
    assert torch.allclose(moments.variances_C, expected, rtol=1e-12)
