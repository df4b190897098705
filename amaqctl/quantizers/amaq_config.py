"""The options of `amaq`, and which of them depend on others."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveFloat, model_validator

from amaqctl.quantizer import QuantizerConfig, ScaleDtype

_PAPER = {
    "allocation": "learned",
    "clip": None,
    "min_bits": 3,
    "beta": 1.0,
    "initial_share": 0.92,  # 0.9 would be 7.5 bits: a tie, which the last bit of a float decides
    "target_bits": None,
    "prompt_ranges": False,
    "spare_code": False,
    "outlier_tokens": False,
}


class AmaqConfig(QuantizerConfig):
    """Options of `amaq`. `mode: paper` changes the defaults of those it names."""

    mode: Literal["budget", "paper"] = Field(
        "budget",
        description="budget: meet target_bits exactly; paper: as published, driven by beta",
    )
    axis: Literal["channel", "position"] = Field("channel", description="what has a gate")
    min_bits: int = Field(
        0,
        ge=0,
        le=7,
        description="smallest width; 3 in paper mode, 2 where positions or tokens are scaled",
    )
    max_bits: int = Field(8, ge=1, le=8, description="largest width")
    alpha: float = Field(
        1.0,
        ge=1e-3,
        le=1e3,
        description="α, steepness of the gates; no matter where they are tracked",
    )
    initial_share: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="σ(α·q) of every gate before anything is learned; 0.92 in paper mode; a budget "
        "makes it no matter",
    )
    beta: float = Field(0.0, ge=0, description="β, weight of Bits_Loss; 1.0 in paper mode")
    target_bits: float | None = Field(
        4.0, ge=0, le=8, description="mean width at the end; null in paper mode"
    )
    start_bits: float = Field(
        8.0, ge=0, le=8, description="mean width that a fall starts from; never above max_bits"
    )
    fall: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the run over which the mean width falls linearly from start_bits; "
        "0: on target from the first step",
    )
    allocation: Literal["tracked", "learned"] = Field(
        "tracked",
        description="tracked: gates follow measured gradients and errors; learned: gates are "
        "trained by their gradient, as in paper mode",
    )
    memory: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="share of the running means of gradients and errors that outlives an "
        "observation",
    )
    center: bool = Field(False, description="subtract the channel mean before the grid")
    scale: Literal["channel", "token", "channel-token"] = Field(
        "channel", description="what shares one scale"
    )
    clip: Literal["search"] | PositiveFloat | None = Field(
        "search",
        union_mode="left_to_right",
        description="range of a channel: search (least squared error), a number (that many "
        "times its mean magnitude), or null (its largest magnitude)",
    )
    spare_code: bool = Field(
        True,
        description="give the code that a symmetric grid leaves unused to the longer side of the "
        "channel; only with axis: channel and scale: channel; off by default in paper mode",
    )
    outlier_tokens: bool = Field(
        True,
        description="give tokens of massive activations, often the first, ranges of their own; "
        "only with axis: channel and scale: channel; off by default in paper mode",
    )
    prompt_ranges: bool = Field(
        True,
        description="tokens of a cached generation reuse the ranges and means of its prompt; "
        "only with axis: channel and scale: channel; off by default in paper mode",
    )
    scale_dtype: ScaleDtype = Field(
        "bfloat16", description="dtype in which ranges and means are sent"
    )

    @model_validator(mode="before")
    @classmethod
    def _dependent_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        defaults = dict(_PAPER) if data.get("mode") == "paper" else {}
        if data.get("axis") == "position" or data.get("scale", "channel") != "channel":
            defaults.setdefault("min_bits", 2)
            defaults["clip"] = None
            defaults["prompt_ranges"] = False
            defaults["spare_code"] = False
            defaults["outlier_tokens"] = False
        highest = data.get("max_bits")
        if isinstance(highest, int | float) and 0 < highest < 8:
            defaults["start_bits"] = float(highest)
        return {**defaults, **data}

    @model_validator(mode="after")
    def _consistent(self) -> AmaqConfig:
        if self.min_bits >= self.max_bits:
            raise ValueError("min_bits must be below max_bits")
        if self.mode == "paper" and self.target_bits is not None:
            raise ValueError("target_bits belongs to mode: budget; paper mode has beta")
        if self.mode == "budget" and (self.target_bits is None or self.beta):
            raise ValueError("mode: budget needs target_bits and no beta")
        if self.mode == "paper" and self.allocation != "learned":
            raise ValueError("allocation: tracked belongs to mode: budget")
        if self.min_bits < 2 and (self.scale != "channel" or self.axis == "position"):
            raise ValueError("widths of 0 and 1 need axis: channel and scale: channel")
        if self.clip is not None and self.scale == "token":
            raise ValueError("clip limits the range of a channel, and scale: token has none")
        if self.clip == "search" and (self.scale != "channel" or self.axis == "position"):
            raise ValueError("clip: search needs axis: channel and scale: channel")
        for name in ("prompt_ranges", "spare_code", "outlier_tokens"):
            if getattr(self, name) and (self.scale != "channel" or self.axis == "position"):
                raise ValueError(f"{name} needs axis: channel and scale: channel")
        for name in ("target_bits", "start_bits") if self.mode == "budget" else ():
            if not self.min_bits <= getattr(self, name) <= self.max_bits:
                raise ValueError(f"{name} must lie between min_bits and max_bits")
        return self
