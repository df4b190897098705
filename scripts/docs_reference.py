"""The reference of the quantizer contract, from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import amaqctl.bits as bits
import amaqctl.quantizer as contract

_GROUPS: list[tuple[str, Any, list[str]]] = [
    ("The contract", contract, ["Quantizer", "QuantizerConfig", "BitReport"]),
    ("What is known", contract, ["Site", "TensorContext"]),
    ("What is handed over", contract, ["QuantizedTensor"]),
    ("", bits, ["PackedCodes", "BitAllocation"]),
    ("What a message looks like", contract, ["Layout", "CodesLayout", "SideLayout"]),
    ("", contract, ["LayoutError"]),
    ("One in front of another", contract, ["Wrapper", "QuantizerChoice", "ResolvedQuantizer"]),
    ("", contract, ["resolve_quantizer", "load_quantizer"]),
    ("A memory of samples", contract, ["SampleMemory"]),
    ("Steps that most take", contract, ["rows_of", "num_rows", "restored", "side_values"]),
    ("", contract, ["rounding_noise"]),
    ("The grid", bits, ["encode", "decode", "step_size", "largest_code", "nearest_codes"]),
    ("", bits, ["values_of_codes", "Grid"]),
]


def reference() -> str:
    """Every public name that an author of a quantizer has use for."""
    parts = []
    for title, module, names in _GROUPS:
        if title:
            parts.append(f"## {title}")
        parts += [_entry(module, name) for name in names]
    return "\n\n".join(parts)


def _entry(module: Any, name: str) -> str:
    thing = getattr(module, name)
    lines = [f"### `{name}`", f"From `{module.__name__}`. {_prose(inspect.getdoc(thing) or '')}"]
    if inspect.isfunction(thing):
        lines.insert(1, f"`{name}{_signature(thing)}`")
    else:
        lines += [
            f"**`{method}{_signature(function)}`**: {_prose(inspect.getdoc(function) or '')}"
            for method, function in _own_methods(thing)
        ]
    return "\n\n".join(lines)


def _own_methods(cls: type) -> Iterator[tuple[str, Any]]:
    for name, value in vars(cls).items():
        function = value.__func__ if isinstance(value, classmethod) else value
        if isinstance(value, property):
            function = value.fget
        if not name.startswith("_") and inspect.isfunction(function):
            yield name, function


def _signature(function: Any) -> str:
    text = str(inspect.signature(function))
    text = re.sub(r"\((self|cls)(, )?", "(", text)
    return text.replace("'", "").replace("torch.Tensor", "Tensor")


def _prose(docstring: str) -> str:
    """Paragraphs as they are; Args, Returns, Raises and Attributes as lists."""
    out: list[str] = []
    for block in docstring.split("\n\n"):
        head, _, rest = block.partition("\n")
        if not re.fullmatch(r"(Args|Returns|Raises|Attributes):.*", head):
            out.append(" ".join(block.split()) if not block.startswith("::") else block)
            continue
        title, _, at_once = head.partition(":")
        items = re.split(r"\n    (?=\S)", f"\n{rest}")[1:]
        lines = [f"- {' '.join(item.split())}" for item in items]
        if at_once.strip():
            lines.insert(0, f"- {at_once.strip()}")
        out.append(f"{title}:\n\n" + "\n".join(lines))
    return "\n\n".join(out)
