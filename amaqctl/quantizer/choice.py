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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self, get_args

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from amaqctl import registry
from amaqctl.errors import PluginError
from amaqctl.nearest import listed, nearest
from amaqctl.quantizer.contract import Quantizer, QuantizerConfig
from amaqctl.quantizer.end import QuantizerEnd
from amaqctl.quantizer.site import Site
from amaqctl.registry import Offer

_MISSING = "missing_option"  # a finding: a key that an inner quantizer needs is not there
_PLUGIN = "plugin"  # a finding: a quantizer that cannot be had
_PYDANTICS_OWN = frozenset(get_args(core_schema.ErrorType))


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
    for key, inner in inner_plugin_errors(fault):
        if key.split(".")[0] not in (options or {}):  # a default of its own brought it up
            raise PluginError(
                f"quantizer '{name}' of {offer.distribution} {offer.version} has another as its "
                f"default: {inner.message}",
                hint=inner.hint,
                error_id=inner.error_id,
            ) from fault
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
            raise _finding(error) from error
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
            known = load_quantizer(name).Config.model_fields
            raise _in_words(error, f"option of {name}", known) from error
        except PluginError as error:
            raise _finding(error) from error
        return config.model_dump(mode="json")

    @model_validator(mode="wrap")
    @classmethod
    def _told(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            raise _in_words(error, "key", cls.model_fields) from error

    def resolved(self) -> ResolvedQuantizer:
        """What it stands for; it was validated."""
        return resolve_quantizer(self.name, self.options)


def _finding(error: PluginError) -> PydanticCustomError:
    said = {"text": error.message, "hint": error.hint or "", "id": error.error_id}
    return PydanticCustomError(_PLUGIN, "{text} ({hint})", said)


def inner_plugin_errors(error: ValidationError) -> list[tuple[str, PluginError]]:
    """Names among faults of options that cannot be had, with their keys: ``inner.name``."""
    return [
        (
            ".".join(map(str, detail["loc"])),
            PluginError(
                detail["ctx"]["text"], hint=detail["ctx"]["hint"], error_id=detail["ctx"]["id"]
            ),
        )
        for detail in error.errors()
        if detail["type"] == _PLUGIN
    ]


def _in_words(error: ValidationError, what: str, known: Iterable[str]) -> ValidationError:
    """The same findings; those of a key itself with the words of its owner.

    Args:
        what: a key is: ``option of amaq``. known: keys that there are.
    """
    known = list(known)
    lines: list[InitErrorDetails] = []
    for detail in error.errors():
        kind: str | PydanticCustomError = detail["type"]
        if kind == "extra_forbidden" and len(detail["loc"]) == 1:
            near = nearest(str(detail["loc"][0]), known)
            guess = f"did you mean '{near}'?" if near else f"known here: {listed(known)}"
            words = f"unknown {what}, {guess if known else 'it has none'}"
            kind = PydanticCustomError("option", "{words}", {"words": words})
        elif kind == "missing" and len(detail["loc"]) == 1:
            words = f"required {what} is missing"
            kind = PydanticCustomError(_MISSING, "{words}", {"words": words})
        elif kind not in _PYDANTICS_OWN:
            # The text is written already; braces in it are none to be filled.
            context = dict(detail.get("ctx", {}))
            context["words"] = detail["msg"]
            kind = PydanticCustomError(detail["type"], "{words}", context)
        line = InitErrorDetails(type=kind, loc=detail["loc"], input=detail["input"])
        if isinstance(kind, str) and "ctx" in detail:
            line["ctx"] = detail["ctx"]
        lines.append(line)
    return ValidationError.from_exception_data(what, lines)
