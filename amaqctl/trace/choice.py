"""Which quantizers to replay: `NAME[:KEY=VALUE,…]` on the command line, or the usual ones."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from amaqctl import registry
from amaqctl.errors import PluginError, UsageError
from amaqctl.quantizer import Quantizer, QuantizerConfig, Site

_FORM = "write NAME or NAME:KEY=VALUE,KEY=VALUE, such as group:bits=4,group_size=64"
_USUAL_BITS = 4


@dataclass(frozen=True)
class Choice:
    """A registered quantizer with validated options.

    Args:
        label: as it was typed; what a table calls it.
        name: as registered.
        cls, config: what makes an instance.
        origin: distribution and version of a third party's; None for a built-in one.
    """

    label: str
    name: str
    cls: type[Quantizer]
    config: QuantizerConfig
    origin: str | None = None

    def make(self, site: Site) -> Quantizer:
        """A new instance; two of them share nothing."""
        return self.cls(self.config, site)


def chosen(text: str) -> Choice:
    """The quantizer that ``text`` asks for.

    A value is read as JSON where it is JSON (`4`, `true`, `null`), and else is text.

    Raises:
        PluginError: the name is unknown, broken or ambiguous.
        UsageError: the form is wrong, or an option of the quantizer is.
    """
    name, colon, rest = text.partition(":")
    options: dict[str, Any] = {}
    for item in rest.split(",") if colon else ():
        key, equals, value = item.partition("=")
        if not name or not key or not equals:
            raise UsageError(f"-q {text}: '{item}' is no KEY=VALUE", hint=_FORM)
        if key in options:
            raise UsageError(f"-q {text}: the option '{key}' is given twice")
        options[key] = _plain(value)
    return _validated(text, name, options)


def usual_choices() -> list[Choice]:
    """Every built-in with a width to set, at 4 bits."""
    choices = []
    for offer in registry.offers(registry.QUANTIZERS):
        if not offer.built_in:
            continue
        known = registry.load(registry.QUANTIZERS, offer.name).Config.model_fields
        for key in ("target_bits", "bits"):
            if key in known:
                text = f"{offer.name}:{key}={_USUAL_BITS}"
                choices.append(_validated(text, offer.name, {key: _USUAL_BITS}))
    return choices


def _validated(label: str, name: str, options: dict[str, Any]) -> Choice:
    offer = registry.find(registry.QUANTIZERS, name)
    cls = registry.load(registry.QUANTIZERS, name)
    try:
        config = cls.Config(**options)
    except ValidationError as error:
        fault = _fault(error, list(cls.Config.model_fields), name)
        raise UsageError(
            f"-q {label}: {fault}",
            hint=f"amaqctl plugins {name}",
            error_id="USAGE-QUANTIZER",
        ) from error
    except Exception as error:
        raise PluginError(
            f"the options of '{name}' cannot be checked: {type(error).__name__}: {error}",
            hint=f"repair or uninstall {offer.distribution}",
            error_id="PLUGIN-BROKEN",
        ) from error
    origin = None if offer.built_in else f"{offer.distribution} {offer.version}"
    return Choice(label, name, cls, config, origin)


def _fault(error: ValidationError, known: list[str], name: str) -> str:
    """The first finding in one line."""
    detail = error.errors(include_url=False)[0]
    option = ".".join(str(part) for part in detail["loc"][:1])
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(option, known, n=1)
        others = f"known options: {', '.join(known)}" if known else "it has no options"
        guess = f"did you mean '{near[0]}'?" if near else others
        return f"unknown option '{option}' of {name}, {guess}"
    words = detail["msg"].removeprefix("Value error, ")
    return f"{option}: {words}" if option else words


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
