"""The quantizers, roles and options over which the contract tests run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from amaqctl import registry
from amaqctl.quantizer import Quantizer, Role, Site

# Beside the defaults: what changes the code that runs, not merely a number.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "fixed": [
        {"bits": 1},
        {"bits": 2, "scale": "token", "scale_dtype": "float16"},
        {"bits": 8, "scale": "tensor", "rounding": "stochastic", "scale_dtype": "float32"},
    ],
    "group": [
        {"bits": 1, "group_size": 3},
        {"bits": 3, "group_size": 5, "rounding": "stochastic"},
        {"bits": 4, "group_size": 4, "zero_point": True, "scale_dtype": "float32"},
    ],
    "aq-sgd": [
        {"bits": 2, "scale": "token", "memory_dtype": "bfloat16"},
        {"bits": 8, "rounding": "stochastic", "scale_dtype": "float32"},
    ],
    "amaq": [
        {"mode": "paper"},
        {"target_bits": 2.5, "fall": 0.5, "clip": 3.0},
        {"axis": "position", "allocation": "learned", "target_bits": 3.0},
        {"axis": "position", "memory": 0.5, "target_bits": 5.0},
        {"scale": "token", "center": False, "target_bits": 5.0, "memory": 0.0},
        {"scale": "channel-token", "scale_dtype": "float32"},
        {"allocation": "learned", "target_bits": 1.0, "center": False},
    ],
}
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
        for options in [{}, *OPTIONS.get(offer.name, [])]:
            frozen = tuple(options.items())
            cases.append(Case(offer.name, "activation", frozen))
            # Who learns from the gradient cannot quantize it; the build refuses such a choice.
            if not cases[-1].build().param_groups():
                cases.append(Case(offer.name, "gradient", frozen))
    return [*cases, Case("fixed", "gradient", (("bits", "received"),))]
