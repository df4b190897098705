"""A quantizer by name and options: resolved through the registry, and as an option of another.

::

    class Config(QuantizerConfig):
        inner: QuantizerChoice = Field(
            default_factory=lambda: QuantizerChoice(name="amaq"), description="…"
        )

    resolve_quantizer("amaq", {"target_bits": 3}).build(site)

In a profile the option is a mapping, ``inner: {name: amaq, options: {target_bits: 3}}``, and a
fault in it is told at its own path, ``inner.options.target_bits``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from amaqctl import registry
from amaqctl.errors import PluginError
from amaqctl.nearest import listed, nearest
from amaqctl.quantizer.contract import Quantizer, QuantizerConfig
from amaqctl.quantizer.end import QuantizerEnd
from amaqctl.quantizer.site import Site
from amaqctl.registry import Offer


@dataclass(frozen=True)
class ResolvedQuantizer:
    """A registered quantizer with validated options.

    Args:
        offer: its name, and the distribution that offers it.
        cls, config: what makes an instance.
    """

    offer: Offer
    cls: type[Quantizer]
    config: QuantizerConfig

    @property
    def name(self) -> str:
        """As registered."""
        return self.offer.name

    def build(self, site: Site) -> Quantizer:
        """A new instance; two of them share nothing.

        Raises:
            PluginError: its ``__init__`` fails.
            QuantizationError, ResourceError: it refuses the site.
        """
        with self.offer.blamed("__init__", f"link {site.link} {site.role}"):
            return self.cls(self.config, site)

    def end(self, site: Site, device: torch.device | None = None) -> QuantizerEnd:
        """A new instance as one end of a channel, on ``device``; raises like `build`."""
        quantizer = self.build(site)
        if device is not None:
            with self.offer.blamed("to", f"link {site.link} {site.role}"):
                quantizer.to(device)
        return QuantizerEnd(self.offer, quantizer)


def load_quantizer(name: str) -> type[Quantizer]:
    """The class behind a registered name.

    Raises:
        PluginError: as `amaqctl.registry.load`, or what it points to is no `Quantizer`, or one
            without options.
    """
    cls = registry.load(registry.QUANTIZERS, name)
    offer = registry.find(registry.QUANTIZERS, name)
    if not (isinstance(cls, type) and issubclass(cls, Quantizer)):
        raise PluginError(
            f"quantizer '{name}' of {offer.distribution} {offer.version} is no subclass of "
            "amaqctl.quantizer.Quantizer",
            where=offer.target,
            hint=f"its entry point must name the class: repair or uninstall {offer.distribution}",
            error_id="PLUGIN-BROKEN",
        )
    if not (isinstance(cls.Config, type) and issubclass(cls.Config, QuantizerConfig)):
        raise PluginError(
            f"quantizer '{name}' of {offer.distribution} {offer.version} has a Config that is no "
            "subclass of amaqctl.quantizer.QuantizerConfig",
            where=offer.target,
            hint=f"repair or uninstall {offer.distribution}",
            error_id="PLUGIN-BROKEN",
        )
    return cls


def resolve_quantizer(name: str, options: Mapping[str, Any] | None = None) -> ResolvedQuantizer:
    """The registered quantizer of this name, with its options validated.

    Args:
        options: as in a profile; None for the defaults.

    Raises:
        PluginError: the name is unknown, ambiguous or broken, or its options cannot be checked.
        pydantic.ValidationError: an option is unknown or out of range.
    """
    cls = load_quantizer(name)
    offer = registry.find(registry.QUANTIZERS, name)
    with offer.blamed("Config"):
        try:
            config = cls.Config(**(options or {}))
        except ValidationError as error:
            fault = error
        else:
            return ResolvedQuantizer(offer, cls, config)
    raise fault


class QuantizerChoice(BaseModel):
    """Another quantizer as an option: its name, and its options.

    Validation looks the name up and validates the options, which then hold every default. An
    unknown name is a fault of the option, as an unknown option is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="as registered")
    options: dict[str, Any] = Field({}, description="its own options", validate_default=True)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            load_quantizer(name)
        except PluginError as error:
            text = f"{error.message} ({error.hint})"
            raise PydanticCustomError("quantizer", "{text}", {"text": text}) from error
        return name

    @field_validator("options")
    @classmethod
    def _valid(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        name = info.data.get("name")
        if name is None:  # told already
            return options
        try:
            config = resolve_quantizer(name, options).config
        except ValidationError as error:
            raise _in_words(error, name) from error
        return config.model_dump(mode="json")

    def resolved(self) -> ResolvedQuantizer:
        """What it stands for; it was validated."""
        return resolve_quantizer(self.name, self.options)


def _in_words(error: ValidationError, owner: str) -> ValidationError:
    """The same findings, an unknown option with the nearest known one."""
    known = list(load_quantizer(owner).Config.model_fields)
    lines: list[InitErrorDetails] = []
    for detail in error.errors(include_url=False):
        words = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1:
            near = nearest(str(detail["loc"][0]), known)
            guess = f"did you mean '{near}'?" if near else f"known options: {listed(known)}"
            words = f"unknown option of {owner}, {guess}"
        kind = PydanticCustomError("option", "{words}", {"words": words})
        lines.append(InitErrorDetails(type=kind, loc=detail["loc"], input=detail["input"]))
    return ValidationError.from_exception_data(owner, lines)
