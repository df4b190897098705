"""The quantizers, roles and options over which the contract tests run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from amaqctl import registry
from amaqctl.quantizer import Quantizer, Role, Site, load_quantizer

NUM_POSITIONS, NUM_SAMPLES, NUM_CHANNELS = 24, 8, 12


@dataclass(frozen=True)
class Case:
    """One quantizer with options in one role."""

    name: str
    role: Role
    options: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        return "-".join([self.name, self.role, *(f"{k}={v}" for k, v in self.options)])

    @property
    def cls(self) -> type[Quantizer]:
        return registry.load(registry.QUANTIZERS, self.name)

    def build(self, num_channels: int = NUM_CHANNELS) -> Quantizer:
        """A fresh instance, from options that have been through JSON like a peer's."""
        config = self.cls.Config(**dict(self.options))
        config = self.cls.Config(**json.loads(config.model_dump_json()))
        return self.cls(config, Site(0, self.role, num_channels, NUM_POSITIONS, NUM_SAMPLES, 17))


def all_cases() -> list[Case]:
    """Every registered quantizer, with default and other options, in each role it can have."""
    cases = []
    for offer in registry.offers(registry.QUANTIZERS):
        for options in load_quantizer(offer.name).option_sets:
            frozen = tuple(options.items())
            cases.append(Case(offer.name, "activation", frozen))
            # Who learns from the gradient cannot quantize it; the build refuses such a choice.
            if not cases[-1].build().param_groups():
                cases.append(Case(offer.name, "gradient", frozen))
    return [*cases, Case("fixed", "gradient", (("bits", "received"),))]
