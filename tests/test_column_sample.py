"""What `amaq` measures of columns: exact means, bounds of all rows, a clip outliers survive."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from amaqctl.bits import PADDING
from amaqctl.quantizers.column_sample import SAMPLE_ROWS, SHARES, ColumnSample

USUAL = 0


def sample_of(values_RC: Tensor, kind_R: Tensor | None = None) -> ColumnSample:
    if kind_R is None:
        kind_R = torch.zeros(len(values_RC), dtype=torch.uint8)
    return ColumnSample.of(values_RC, kind_R, USUAL)


def ranges_of(sample: ColumnSample, bits: int, spare_code: bool = False) -> list[float]:
    tried_HC = sample.peak_C * torch.tensor(SHARES).unsqueeze(1)
    widths_1C = torch.full((1, len(sample.peak_C)), bits, dtype=torch.uint8)
    return sample.best_ranges(tried_HC, widths_1C, spare_code=spare_code)[0][0].tolist()


@pytest.mark.parametrize("size", [1e-36, 1.0, 1e36])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_means_are_those_of_float64_whatever_the_size(size: float, dtype: torch.dtype) -> None:
    values = torch.randn((300, 7), generator=torch.Generator().manual_seed(1)) + 0.3
    values = (values * size).to(dtype)
    sample, exact = sample_of(values), values.double()
    assert torch.equal(sample.mean_C(), exact.mean(0).float())
    assert torch.equal(sample.mean_magnitude_C(), exact.abs().mean(0).float())
    if size == 1.0:
        due = exact.square().mean(0).float()
        assert torch.allclose(sample.mean_square_C(), due, rtol=1e-5)


def test_the_order_of_rows_changes_nothing() -> None:
    values = torch.randn((500, 9), generator=torch.Generator().manual_seed(2)).exp()
    order = torch.randperm(500, generator=torch.Generator().manual_seed(3))
    one, other = sample_of(values), sample_of(values[order])
    for name in ("mean_C", "mean_magnitude_C", "mean_square_C"):
        assert torch.equal(getattr(one, name)(), getattr(other, name)())
    for bits in (2, 3, 8):
        assert ranges_of(one, bits) == ranges_of(other, bits)


def test_bounds_are_of_all_rows_of_the_kind_and_no_other() -> None:
    num_rows = 3 * SAMPLE_ROWS + 5
    values = torch.randn((num_rows, 4), generator=torch.Generator().manual_seed(4))
    kind_R = torch.zeros(num_rows, dtype=torch.uint8)
    kind_R[::7], kind_R[1::9] = 1, PADDING
    sample = sample_of(values, kind_R)
    usual = values[kind_R == 0]
    assert torch.equal(sample.low_C, usual.amin(0))
    assert torch.equal(sample.high_C, usual.amax(0))
    assert sample.rows_each == -(-len(usual) // SAMPLE_ROWS)
    assert torch.equal(sample.values_SC, usual[:: sample.rows_each])


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("num_rows", [SAMPLE_ROWS, 16 * SAMPLE_ROWS])
def test_an_outlier_that_no_sampled_row_holds_is_not_clipped(bits: int, num_rows: int) -> None:
    values = torch.randn((num_rows, 2), generator=torch.Generator().manual_seed(bits))
    values[num_rows // 2 + 1, 1] = 5000.0
    plain, loud = ranges_of(sample_of(values), bits)
    assert loud == 5000.0
    assert plain < float(values[:, 0].abs().max()) or bits == 8


def test_padding_alone_has_no_mean_and_no_range() -> None:
    sample = sample_of(torch.zeros(5, 3), torch.full((5,), PADDING, dtype=torch.uint8))
    assert sample.mean_C().tolist() == sample.mean_square_C().tolist() == [0.0] * 3
    assert ranges_of(sample, 4) == [0.0] * 3
