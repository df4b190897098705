"""Markdown tables, and the legal values of a JSON Schema in words, for generated pages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_BOUNDS = (
    ("minimum", "from"),
    ("exclusiveMinimum", "above"),
    ("maximum", "to"),
    ("exclusiveMaximum", "below"),
)
_KINDS = {"boolean": "`true`, `false`", "null": "`null`", "string": "text", "object": "mapping"}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars inside cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def code(value: Any) -> str:
    """A value as JSON in a code span."""
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def legal(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """The legal values of a schema: ``integer from 1 to 8``, ``text or `null```.

    Args:
        schema: one property of a JSON Schema.
        definitions: its ``$defs``.
    """
    if "$ref" in schema:
        return legal(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return " or ".join(legal(inner, definitions) for inner in schema["anyOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = str(schema.get("type", "any value"))
    if kind == "array":
        return f"list of {legal(schema.get('items', {}), definitions)}"
    bounds = [f"{word} {schema[key]}" for key, word in _BOUNDS if key in schema]
    return " ".join([_KINDS.get(kind, kind), *bounds])
