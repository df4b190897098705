"""The methods of the grids: a quantizer, and how a width becomes its options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

GRADIENT = {"name": "group", "options": {"bits": 6, "group_size": 64}}
LOSSLESS = {"name": "none", "options": {}}


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Args:
        name: of the row.
        quantizer: of activations.
        options: of the quantizer.
        width_option: the option that gets the width; None where there is no width.
        gradient: the gradient's quantizer.
        profile: further keys of the profile.
    """

    name: str
    quantizer: str
    options: dict[str, Any] = field(default_factory=dict)
    width_option: str | None = "bits"
    gradient: dict[str, Any] = field(default_factory=lambda: dict(GRADIENT))
    profile: dict[str, Any] = field(default_factory=dict)

    def quantizers(self, bits: float | None) -> dict[str, Any]:
        """The profile's `quantizers` section."""
        options = dict(self.options)
        if self.width_option:
            options[self.width_option] = bits
        activation = {"name": self.quantizer, "options": options}
        return {"activation": activation, "gradient": self.gradient}


def amaq(
    name: str, gradient: dict[str, Any] | None = None, lr: float | None = None, **options: Any
) -> Method:
    """AMAQ with a budget and some options changed."""
    profile = {} if lr is None else {"optimizer.quantizer_lr": lr}
    return Method(name, "amaq", options, "target_bits", gradient or dict(GRADIENT), profile)


def aq_sgd_in(steps: int) -> Method:
    """AQ-SGD in so many steps."""
    return Method(f"aq-sgd-{steps}-steps", "aq-sgd", profile={"train.max_steps": steps})


NONE = Method("none", "none", {}, None, LOSSLESS)
# The model as it came: one step whose learning rate changes nothing.
UNTRAINED = Method(
    "untrained", "none", {}, None, LOSSLESS, {"train.max_steps": 1, "optimizer.lr": 1e-12}
)
FIXED_TOKEN = Method("fixed-token", "fixed", {"scale": "token"})
FIXED_CHANNEL = Method("fixed-channel", "fixed", {"scale": "channel"})
GROUP_32, GROUP_64, GROUP_128 = (
    Method(f"group-{size}", "group", {"group_size": size}) for size in (32, 64, 128)
)
# Every code of group's grid in use, at another 0.13 bits a value.
GROUP_64_ZERO_POINT = Method("group-64-zero-point", "group", {"group_size": 64, "zero_point": True})
AQ_SGD = Method("aq-sgd", "aq-sgd")
# On wikitext2 as many bytes as AMAQ sends in all 48 steps at 3 and at 4 bits, in two ways. Fewer
# steps: the first visits of 16 of them in full, and what is left for differences. Or fewer samples,
# visited more often: 16 windows of 64, in full in 4 steps. The learning rate falls to 0 in these
# steps.
AQ_SGD_26_STEPS, AQ_SGD_30_STEPS = aq_sgd_in(26), aq_sgd_in(30)
AQ_SGD_16_WINDOWS_43_STEPS, AQ_SGD_16_WINDOWS_44_STEPS = (
    Method(
        f"aq-sgd-16-windows-{steps}-steps",
        "aq-sgd",
        profile={"train.max_steps": steps, "task.options.train_limit": 16},
    )
    for steps in (43, 44)
)
AMAQ = amaq("amaq")
AMAQ_PAPER = Method("amaq-paper", "amaq", {"mode": "paper"}, None)
# AMAQ's grid without its mixed widths: gates that never learn.
EQUAL_WIDTHS = amaq("equal-widths", lr=0.0, allocation="learned")
