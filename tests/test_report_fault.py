"""What of a quantizer's report no reader could show is named, and the rest is taken."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from amaqctl.quantizer import BitReport
from amaqctl.quantizer.report_fault import report_fault

VECTOR = torch.tensor([0.0, 1.5])


@pytest.mark.parametrize(
    "report",
    [
        BitReport(),
        BitReport(target_bits=0),
        BitReport(target_bits=3.5, column="rotated channel"),
        BitReport(column="x" * 40),
        BitReport(range_K=VECTOR, gradient_energy_K=VECTOR.double()),
        BitReport(range_K=torch.zeros(2**20)),
    ],
)
def test_what_can_be_shown(report: BitReport) -> None:
    assert report_fault(report) is None


@pytest.mark.parametrize("target", [-0.5, -1, math.nan, math.inf, "3", VECTOR])
def test_a_target_that_is_no_number_of_bits(target: Any) -> None:
    assert report_fault(BitReport(target_bits=target)) == "no finite target_bits"


@pytest.mark.parametrize("column", ["", "x" * 41, "two\nlines", 3, b"bytes"])
def test_a_column_that_is_no_short_line(column: Any) -> None:
    assert report_fault(BitReport(column=column)) == "no column of one short line"


@pytest.mark.parametrize("name", ["range_K", "gradient_energy_K"])
@pytest.mark.parametrize(
    "values",
    [
        [1.0],
        torch.tensor(1.0),
        torch.ones(1, 2),
        torch.ones(2, dtype=torch.int32),
        torch.ones(0),
        torch.tensor([1.0, -0.1]),
        torch.tensor([1.0, math.nan]),
        torch.tensor([math.inf]),
        torch.zeros(2**20 + 1),
    ],
    ids=["list", "scalar", "matrix", "whole", "empty", "negative", "nan", "infinity", "huge"],
)
def test_numbers_that_are_no_finite_vector(name: str, values: Any) -> None:
    report: Any = SimpleNamespace(**{**vars(BitReport()), name: values})
    assert report_fault(report) == f"no {name} that is a finite vector"


def test_two_vectors_of_different_lengths() -> None:
    report = BitReport(range_K=VECTOR, gradient_energy_K=torch.ones(3))
    assert report_fault(report) == "range_K and gradient_energy_K of different lengths"
