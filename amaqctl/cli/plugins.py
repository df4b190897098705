"""`amaqctl plugins`: which quantizers are installed, and the options of one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from amaqctl import registry
from amaqctl.cli import render
from amaqctl.cli.session import Json, Quiet, Traceback, command


def plugins(
    name: Annotated[str | None, typer.Argument(help="Show the options of this quantizer.")] = None,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """List the installed quantizers without importing them, or show one's options."""
    with command("amaqctl.plugins/1", json=json, quiet=quiet, traceback=traceback) as session:
        if name is not None:
            data = _options(name)
            rows = [
                [o["option"], o["type"], o["default"], o["description"]] for o in data["options"]
            ]
            text = render.table(["option", "type", "default", "description"], rows)
            session.result(data, text, "\n".join(row[0] for row in rows))
            return
        offers = registry.offers(registry.QUANTIZERS)
        rows = [[o.name, "built in" if o.built_in else o.distribution, o.version] for o in offers]
        data = {
            "quantizers": [dict(zip(("name", "from", "version"), r, strict=True)) for r in rows]
        }
        text = render.table(["name", "from", "version"], rows)
        session.result(data, text, "\n".join(row[0] for row in rows))


def _options(name: str) -> dict[str, Any]:
    offer = registry.find(registry.QUANTIZERS, name)
    config = registry.load(registry.QUANTIZERS, name).Config
    options = [
        {
            "option": key,
            "type": _type_name(field.annotation),
            "default": str(field.default),
            "description": field.description or "",
        }
        for key, field in config.model_fields.items()
    ]
    return {"name": name, "from": offer.distribution, "version": offer.version, "options": options}


def _type_name(annotation: Any) -> str:
    text = getattr(annotation, "__name__", None) if isinstance(annotation, type) else None
    return text or str(annotation).replace("typing.", "")
