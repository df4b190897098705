"""16-bit layers whose products are taken in float32: values, gradients, and who gets them."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from amaqctl.model import wide_product
from amaqctl.model.configuration import load_config, num_layers
from amaqctl.model.cut import StageRange
from amaqctl.model.loading import load_stage
from amaqctl.model.source import resolve_source
from amaqctl.model.wide_product import WideConv1D, WideLinear, is_quick_in, multiply_wide

SIXTEEN_BITS = [torch.bfloat16, torch.float16]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor without arithmetic in 16 bits."""
    monkeypatch.setattr(wide_product, "is_quick_in", lambda dtype: dtype == torch.float32)


def _exact(x: Tensor, weight_OI: Tensor, bias: Tensor | None) -> Tensor:
    bias = None if bias is None else bias.double()
    return functional.linear(x.double(), weight_OI.double(), bias)


@pytest.mark.parametrize("dtype", SIXTEEN_BITS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
def test_products_are_the_exact_ones_rounded_once(
    slow: None, kind: type, bias: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(40, 24, bias=bias) if kind is nn.Linear else Conv1D(24, 40)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    model = nn.Sequential(layer).to(dtype)
    multiply_wide(model, dtype)
    x = torch.randn(2, 3, 40, dtype=dtype, requires_grad=True)
    y = model(x)
    given = torch.randn_like(y)
    y.backward(given)

    weight_OI = layer.weight if kind is nn.Linear else layer.weight.t()
    right = _exact(x, weight_OI, layer.bias).detach()
    # Half a unit in the last place of 16 bits, and what float32 loses.
    unit = torch.finfo(dtype).eps * 0.51
    assert (y.double() - right).abs().le(unit * right.abs() + 1e-4).all()
    assert y.dtype == dtype
    assert x.grad is not None
    assert layer.weight.grad is not None
    flat, wide = x.detach().double().flatten(0, 1), given.double().flatten(0, 1)
    of_x, of_weight = wide @ weight_OI.detach().double(), wide.t() @ flat
    assert (x.grad.double().flatten(0, 1) - of_x).abs().le(unit * of_x.abs() + 1e-4).all()
    found = layer.weight.grad if kind is nn.Linear else layer.weight.grad.t()
    assert (found.double() - of_weight).abs().le(unit * of_weight.abs() + 1e-4).all()
    if layer.bias is not None:
        of_bias = wide.sum(0)
        assert (layer.bias.grad.double() - of_bias).abs().le(unit * of_bias.abs() + 1e-4).all()


def test_a_frozen_layer_keeps_no_input(slow: None) -> None:
    layer = WideLinear(8, 8).to(torch.bfloat16).requires_grad_(False)
    y = layer(torch.randn(2, 8, dtype=torch.bfloat16, requires_grad=True))
    assert y.grad_fn.saved_tensors[0] is None  # type: ignore[union-attr]


def test_linear_layers_change_and_others_do_not(slow: None) -> None:
    class Special(nn.Linear):
        pass

    model = nn.ModuleList([nn.Linear(2, 2), Conv1D(2, 2), Special(2, 2), nn.LayerNorm(2)])
    names = list(model.state_dict())
    multiply_wide(model, torch.bfloat16)
    assert [type(m) for m in model] == [WideLinear, WideConv1D, Special, nn.LayerNorm]
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("dtype, kind", [(torch.bfloat16, WideLinear), (torch.float32, nn.Linear)])
def test_a_stage_is_loaded_with_them(slow: None, dtype: torch.dtype, kind: type) -> None:
    source = resolve_source("tiny")
    depth = num_layers(load_config(source))
    stage = load_stage(source, StageRange(0, depth, depth), dtype)
    linears = [type(m) for m in stage.modules() if isinstance(m, nn.Linear)]
    assert linears
    assert set(linears) == {kind}


def test_float32_stays_as_it_is(slow: None) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    multiply_wide(model, torch.float32)
    assert type(model[0]) is nn.Linear


def test_a_quick_processor_keeps_its_own_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_product, "is_quick_in", lambda _: True)
    model = nn.Sequential(nn.Linear(2, 2))
    multiply_wide(model, torch.bfloat16)
    assert type(model[0]) is nn.Linear


def test_float32_is_quick_everywhere() -> None:
    assert is_quick_in(torch.float32)
