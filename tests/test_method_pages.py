"""docs/methods/: option tables and cost formulas against the code and against real messages."""

import json
import math
from dataclasses import replace

import pytest
import torch
from pages import DOCS, rows, section

from amaqctl import registry
from amaqctl.bits import BitAllocation
from amaqctl.quantizer import Site, TensorContext
from amaqctl.wire import Message

METHODS = DOCS / "methods"
BUILT_IN = [offer.name for offer in registry.offers(registry.QUANTIZERS) if offer.built_in]
PAGES = {name: (METHODS / f"{name}.md").read_text(encoding="utf-8") for name in BUILT_IN}


def test_each_built_in_quantizer_has_a_page_and_nothing_else_has():
    assert {path.stem for path in METHODS.glob("*.md")} == set(BUILT_IN)


def _legal(schema: dict) -> str:
    """The legal values of an option, in the page's words."""
    if "anyOf" in schema:
        return ", ".join(_legal(inner) for inner in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    bounds = [
        f"from {low}" if low is not None else f"above {above}" if above is not None else "",
        f"to {high}" if high is not None else f"below {below}" if below is not None else "",
    ]
    kind = {"boolean": "`true`, `false`", "null": "`null`"}.get(schema["type"], schema["type"])
    return " ".join(filter(None, (kind, *bounds)))


@pytest.mark.parametrize("name", BUILT_IN)
def test_option_tables_are_those_of_the_code(name):
    config = registry.load(registry.QUANTIZERS, name).Config
    expected = [
        [f"`{key}`", f"`{json.dumps(field['default'])}`", _legal(field), field["description"]]
        for key, field in config.model_json_schema()["properties"].items()
    ]
    assert rows(section(PAGES[name], "Options")) == expected


def _cost_rows(heading: str) -> list:
    return [
        pytest.param(name, *row, id=f"{name}-{row[0]}-{row[1]}".replace("`", ""))
        for name in BUILT_IN
        for row in rows(section(PAGES[name], heading))
    ]


def _mixed(num_columns: int, seed: int) -> BitAllocation:
    generator = torch.Generator().manual_seed(seed)
    widths = torch.randint(0, 9, (num_columns,), generator=generator).to(torch.uint8)
    return BitAllocation(widths, "channel")


def _sent(name: str, case: str, options: dict, shape: tuple[int, int, int]) -> Message:
    """A message as the ``case`` of a table row says; gates are spread so that widths differ."""
    cls = registry.load(registry.QUANTIZERS, name)
    site = Site(0, "activation", shape[2], max_positions=shape[1], num_samples=shape[0], seed=3)
    sender = cls(cls.Config(**options), site)
    generator = torch.Generator().manual_seed(1)
    for gates in sender.parameters():
        spread = 3 * torch.randn(gates.shape, generator=generator)
        gates.data.copy_(spread)
    dtype = torch.bfloat16 if case == "16-bit tensor" else torch.float32
    x_BTC = torch.randn(shape, generator=generator).to(dtype)
    context = TensorContext("activation", 0, 5, 100, sample_ids=tuple(range(shape[0])))
    if case == "gradient":
        context = replace(context, role="gradient", allocation=_mixed(shape[2], seed=2))
    if case == "evaluation":
        context = replace(context, training=False)
    with torch.no_grad():
        quantized = sender.quantize(x_BTC, context)
        if case == "later visit":
            quantized = sender.quantize(x_BTC + 1, context)
    return Message(name, context, quantized)


def _variables(message: Message, config: object) -> dict[str, object]:
    """What a formula may use; the page's legend says the same."""
    num_batch, num_tokens, num_channels = message.quantized.shape
    codes = message.quantized.codes
    widths = [] if codes is None else codes.allocation.widths_C.tolist()
    group_size = getattr(config, "group_size", num_channels)
    return {
        "ceil": math.ceil,
        "B": num_batch,
        "T": num_tokens,
        "C": num_channels,
        "R": num_batch * num_tokens,
        "K": math.ceil(num_batch * num_tokens / 8),
        "G": math.ceil(num_channels / group_size),
        "b": getattr(config, "bits", None),
        "W": sum(widths),
        "Z": widths.count(0),
        "M": int(len(set(widths)) > 1),
        "s": 4 if getattr(config, "scale_dtype", None) == "float32" else 2,
    }


@pytest.mark.parametrize("shape", [(2, 8, 6), (3, 5, 67), (1, 1, 1), (4, 32, 128)])
@pytest.mark.parametrize(("name", "case", "options", "formula"), _cost_rows("Cost"))
def test_cost_formulas_are_the_lengths_of_real_messages(name, case, options, formula, shape):
    chosen = json.loads(options.strip("`"))
    message = _sent(name, case, chosen, shape)
    sizes = message.to_bytes_and_sizes()[1]
    config = registry.load(registry.QUANTIZERS, name).Config(**chosen)
    variables = _variables(message, config)
    cost = eval(formula.strip("`"), {"__builtins__": {}}, variables)
    assert sizes.total - sizes.header == cost


@pytest.mark.parametrize(("name", "case", "options", "bits"), _cost_rows("Measured"))
def test_measured_bits_a_value(name, case, options, bits):
    message = _sent(name, case, json.loads(options.strip("`")), (4, 128, 576))
    num_values = message.quantized.num_values
    assert f"{8 * len(message.to_bytes()) / num_values:.3f}" == bits
