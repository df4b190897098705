"""The contract kit over every registered quantizer, built-in or installed beside."""

from __future__ import annotations

from typing import Any

from amaqctl import registry
from amaqctl.testing import QuantizerContract

# Beside the defaults: what changes the code that runs, not merely a number.
OPTION_SETS: dict[str, list[dict[str, Any]]] = {
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
        {"target_bits": 2.5, "calibration_steps": 1, "fall": 0.5, "clip": 3.0},
        {"axis": "position", "start": "flat", "target_bits": 3.0},
        {"scale": "token", "center": False, "target_bits": 5.0, "start": "flat"},
        {"scale": "channel-token", "scale_dtype": "float32"},
        {"start": "flat", "target_bits": 1.0, "center": False},
    ],
}


def _contract_of(name: str) -> type[QuantizerContract]:
    option_sets = [{}, *OPTION_SETS.get(name, [])]
    return type(f"Test_{name}", (QuantizerContract,), {"name": name, "option_sets": option_sets})


for _offer in registry.offers(registry.QUANTIZERS):
    globals()[f"Test_{_offer.name}"] = _contract_of(_offer.name)


class TestFixedWithReceivedWidths(QuantizerContract):
    """Only a gradient has received widths to reuse."""

    name = "fixed"
    option_sets = ({"bits": "received"},)
    roles = ("gradient",)
