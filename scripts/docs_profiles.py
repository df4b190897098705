"""Tables of `docs/profiles.md`: sections from the profile's schema, options from `Config` classes.

Only built-in tasks, quantizers and transports are listed, so that the page does not depend on
what else is installed.
"""

from __future__ import annotations

from typing import Any

from docs_tables import code, legal, table
from pydantic import BaseModel

from amaqctl import registry
from amaqctl.profile.schema import PluginChoice, Profile, section_at

_HEADER = ("key", "default", "values", "meaning")
_FLAT = ("amaqctl", "description", "task", "transport")
_KINDS = (
    ("Tasks", registry.TASKS),
    ("Quantizers", registry.QUANTIZERS),
    ("Transports", registry.TRANSPORTS),
)


def sections() -> str:
    """Every key of a profile: the top level, then one table a section."""
    parts = ["### Top level", _table(Profile, "", only=_FLAT)]
    for name, field in Profile.model_fields.items():
        if name not in _FLAT:
            section = section_at((name,))
            assert section is not None, name
            said = _first_line(section) if section is field.annotation else field.description
            parts += [f"### `{name}`", str(said), _table(section, f"{name}.")]
    return "\n\n".join(parts)


def options() -> str:
    """The options of every built-in task, quantizer and transport."""
    parts: list[str] = []
    for title, group in _KINDS:
        parts.append(f"### {title}")
        for offer in registry.offers(group):
            if offer.built_in:
                parts += _part(group, offer.name)
    return "\n\n".join(parts)


def _part(group: str, name: str) -> list[str]:
    cls = registry.load(group, name)
    parts = [f"#### `{name}`", _first_line(cls)]
    if group == registry.QUANTIZERS:
        parts[-1] += f" [The method](methods/{name}.md)."
    config = getattr(cls, "Config", None)
    if config is None or not config.model_fields:
        return [*parts, "No options."]
    return [*parts, _table(config, "")]


def _first_line(cls: type) -> str:
    line = " ".join((cls.__doc__ or "").strip().partition("\n\n")[0].split())
    return line.replace("``", "`")


def _table(model: type[BaseModel], prefix: str, only: tuple[str, ...] = ()) -> str:
    schema = model.model_json_schema()
    names = only or tuple(model.model_fields)
    return table(_HEADER, [row for name in names for row in _rows(model, name, prefix, schema)])


def _rows(
    model: type[BaseModel], name: str, prefix: str, schema: dict[str, Any]
) -> list[list[str]]:
    field = model.model_fields[name]
    default = "required"
    if not field.is_required():
        value = field.get_default(call_default_factory=True, validated_data={})
        default = code(value.model_dump() if isinstance(value, BaseModel) else value)
    definitions = schema.get("$defs", {})
    is_choice = field.annotation is PluginChoice
    values = legal(schema["properties"][name], definitions)
    if is_choice:
        values = "mapping of `name` and `options`"
    rows = [[f"`{prefix}{name}`", default, values, (field.description or "").replace("``", "`")]]
    for inner in () if is_choice else _inner_models(field.annotation):
        for key in inner.model_fields:
            rows += _rows(inner, key, f"{prefix}{name}.", inner.model_json_schema())
    return rows


def _inner_models(annotation: Any) -> list[type[BaseModel]]:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
