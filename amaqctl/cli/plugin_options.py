"""The options of a plugin in words: name, type, default, description."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from pydantic.fields import FieldInfo

from amaqctl.quantizer import QuantizerChoice, resolve_quantizer


def described_options(config: type[BaseModel]) -> list[dict[str, str]]:
    """One entry for each option: ``option``, ``type``, ``default``, ``description``."""
    schemas = _property_schemas(config)
    return [
        {
            "option": key,
            "type": _type(field, schemas.get(key)),
            "default": _default(field),
            "description": field.description or "",
        }
        for key, field in config.model_fields.items()
    ]


def _property_schemas(config: type[BaseModel]) -> dict[str, dict[str, Any]]:
    try:
        properties: dict[str, dict[str, Any]] = config.model_json_schema().get("properties", {})
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError):
        return {}
    return properties


def _type(field: FieldInfo, schema: dict[str, Any] | None) -> str:
    if field.annotation is QuantizerChoice:
        return "quantizer: name and options"
    return _annotated(field) if schema is None else _legal(schema)


def _annotated(field: FieldInfo) -> str:
    annotation = field.annotation
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, QuantizerChoice):
        value = _choice(value)
    return json.dumps(value, default=str, ensure_ascii=False)


def _choice(value: QuantizerChoice) -> dict[str, Any]:
    """Name, and the options that are not that quantizer's own defaults."""
    usual = resolve_quantizer(value.name).config.model_dump(mode="json")
    options = {k: v for k, v in value.options.items() if k not in usual or usual[k] != v}
    return {"name": value.name} | ({"options": options} if options else {})


def _legal(schema: dict[str, Any]) -> str:
    """The legal values of an option: ``integer from 1 to 8``, ``token | channel``."""
    if "anyOf" in schema:
        return " | ".join(_legal(inner) for inner in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    kind = str(schema.get("type", "any value"))
    if kind == "array":
        return f"list of {_legal(schema.get('items', {}))}"
    bounds = [
        f"{word} {schema[key]}"
        for key, word in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
        )
        if key in schema
    ]
    return " ".join(["true | false" if kind == "boolean" else kind, *bounds])
