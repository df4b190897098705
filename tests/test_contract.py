"""The contract kit over every registered quantizer, built-in or installed beside."""

from __future__ import annotations

from amaqctl import registry
from amaqctl.testing import QuantizerContract


def _contract_of(name: str) -> type[QuantizerContract]:
    return type(f"Test_{name}", (QuantizerContract,), {"name": name})


for _offer in registry.offers(registry.QUANTIZERS):
    globals()[f"Test_{_offer.name}"] = _contract_of(_offer.name)


class TestFixedWithReceivedWidths(QuantizerContract):
    """Only a gradient has received widths to reuse."""

    name = "fixed"
    option_sets = ({"bits": "received"},)
    roles = ("gradient",)
