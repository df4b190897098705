"""Which quantizers to replay: those that were asked for, or the usual ones."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from amaqctl import registry
from amaqctl.errors import PluginError, UsageError
from amaqctl.nearest import listed, nearest
from amaqctl.quantizer import (
    QuantizerConfig,
    QuantizerEnd,
    ResolvedQuantizer,
    Site,
    load_quantizer,
    resolve_quantizer,
)
from amaqctl.quantizer.choice import inner_plugin_errors

_USUAL_BITS = 4


@dataclass(frozen=True)
class Choice:
    """A registered quantizer with validated options.

    Args:
        label: as it was typed; what a table calls it.
        quantizer: what makes an instance.
    """

    label: str
    quantizer: ResolvedQuantizer

    @property
    def name(self) -> str:
        """As registered."""
        return self.quantizer.name

    @property
    def config(self) -> QuantizerConfig:
        """The options."""
        return self.quantizer.config

    @property
    def origin(self) -> str | None:
        """Distribution and version of a third party's; None for a built-in one."""
        offer = self.quantizer.offer
        return None if offer.built_in else f"{offer.distribution} {offer.version}"

    def make(self, site: Site) -> QuantizerEnd:
        """A new instance; two of them share nothing."""
        return self.quantizer.end(site)


def choice_of(label: str, name: str, options: Mapping[str, Any], typed: str = "-q") -> Choice:
    """The quantizer of this name with these options.

    Args:
        label: as it was typed. typed: what stood before it.

    Raises:
        PluginError: the name, or one in its options, is unknown, broken or ambiguous.
        UsageError: an option is unknown or out of range.
    """
    try:
        return Choice(label, resolve_quantizer(name, options))
    except ValidationError as error:
        inner = inner_plugin_errors(error)
        if inner and len(inner) == error.error_count():
            key, found = inner[0]
            raise PluginError(
                f"{typed} {label}: {key}: {found.message}", hint=found.hint, error_id=found.error_id
            ) from error
        fault = _fault(error, list(load_quantizer(name).Config.model_fields), name)
        raise UsageError(
            f"{typed} {label}: {fault}",
            hint=shlex.join(["amaqctl", "plugins", name]),
            error_id="USAGE-QUANTIZER",
        ) from error


def usual_choices() -> list[Choice]:
    """Every built-in with a width to set, at 4 bits.

    The options are this package's own, so their names are known; a stranger's quantizer takes
    part by ``-q``, whose options its user knows.
    """
    choices = []
    for offer in registry.offers(registry.QUANTIZERS):
        if not offer.built_in:
            continue
        known = load_quantizer(offer.name).Config.model_fields
        for key in ("target_bits", "bits"):
            if key in known:
                label = f"{offer.name}:{key}={_USUAL_BITS}"
                choices.append(choice_of(label, offer.name, {key: _USUAL_BITS}))
    return choices


def _fault(error: ValidationError, known: list[str], name: str) -> str:
    """The first finding in one line."""
    detail = error.errors(include_url=False)[0]
    option = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        near = nearest(option, known)
        others = f"known options: {listed(known)}" if known else "it has no options"
        guess = f"did you mean '{near}'?" if near else others
        return f"unknown option '{option}' of {name}, {guess}"
    words = detail["msg"].removeprefix("Value error, ")
    return f"{option}: {words}" if option else words
