"""What stands in the JSON files of a run. Each is checked when it is read, before it is believed.

Keys that are not named here are kept or passed over: a later version may write more.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    RootModel,
    field_validator,
    model_validator,
)

Count = Annotated[int, Field(ge=0, le=2**53)]
_Bits = Annotated[int, Field(ge=0, le=16)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Channel = Annotated[str, Field(pattern=r"^link\d{1,9}\.(activation|gradient)$")]
_Address = Annotated[str, Field(pattern=r"^\d{1,9}/(activation|gradient)$")]
_Sender = Annotated[str, Field(pattern=r"^link\d{1,9}\.(activation|gradient)\.(sender|receiver)$")]
_Step = Annotated[str, Field(pattern=r"^\d{1,15}$")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# A name of a file below its folder: no way up, none to the root.
_PlainName = Annotated[str, Field(pattern=r"^[\w-][\w.-]*(/[\w-][\w.-]*)*$", max_length=200)]


class _Document(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class RunDocument(_Document):
    """``run.json``: who the run is and how it stands."""

    model_config = ConfigDict(extra="allow")

    schema_name: Annotated[Literal["amaqctl.run/1"], Field(alias="schema")]
    id: str | None = None
    name: str | None = None
    status: str | None = None
    started: str | None = None
    ended: str | None = None
    pid: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    starts: Count = 0
    max_steps: Annotated[int, Field(ge=1, le=2**53)] | None = None
    exit_code: int | None = None
    seed: int | None = None
    identity: dict[str, JsonValue] | None = None
    model: dict[str, JsonValue] | None = None
    data: dict[str, JsonValue] | None = None
    max_steps_changes: list[StepsChange] | None = None
    result: RunResult | None = None


class StepsChange(_Document):
    """A start after which the run was to have another number of steps than before."""

    step: Count
    before: Count
    now: Count


class RunResult(_Document):
    """The numbers at a run's end; metrics of its task beside those named."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, _Finite | None]

    steps: Count
    loss_before: _Finite | None = None
    loss_after: _Finite | None = None
    wire_bytes: Count = 0
    wire_values: Count = 0


class MetricsRecord(_Document):
    """One line of ``metrics.jsonl``: flat, and numbers where readers reckon with them."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str | _Finite | bool | None]

    kind: Annotated[str, Field(min_length=1)]
    step: Count
    loss: _Finite | None = None
    wire_total_bytes: Annotated[Count, Field(alias="wire/total_bytes")] = 0


class _ChannelSums(_Document):
    """The traffic of one channel, as `ChannelTraffic` counts it."""

    model_config = ConfigDict(extra="forbid")

    messages: Count
    values: Count
    codes_bytes: Count
    widths_bytes: Count
    side_bytes: Count
    header_bytes: Count
    width_sum: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    width_columns: Count
    min_width: _Bits | None
    max_width: _Bits | None

    @model_validator(mode="after")
    def _widths_with_columns(self) -> _ChannelSums:
        known = (self.min_width is not None, self.max_width is not None)
        if known not in ((True, True), (False, False)) or known[0] != bool(self.width_columns):
            raise ValueError("widths and the columns that have them do not fit each other")
        return self


TrafficSums = dict[_Address, _ChannelSums]
"""A ledger as `amaqctl.engine.traffic.Traffic.to_plain` writes it."""


class TrainingDocument(_Document):
    """``trainer.json`` of a checkpoint, as far as every party has it.

    No hyper-parameter is among it: those are the profile's, also when a run goes on.
    """

    step: Count
    messages: dict[_Channel, Annotated[list[Count], Field(min_length=2, max_length=2)]]
    traffic: TrafficSums
    evaluation_traffic: TrafficSums
    identity: dict[str, JsonValue] | None = None


class TrainerDocument(TrainingDocument):
    """That of the party that has the data, and so evaluates."""

    evaluations: dict[_Step, dict[str, _Finite]]
    last_traffic: TrafficSums

    @model_validator(mode="after")
    def _evaluated_at_the_start(self) -> TrainerDocument:
        # At step 0, or where a client joined the others.
        if not self.evaluations:
            raise ValueError("evaluations: that of the start is missing")
        for step, metrics in self.evaluations.items():
            if "loss" not in metrics:
                raise ValueError(f"evaluations.{step}: loss is missing")
        return self


class CheckpointIdentity(_Document):
    """Of ``trainer.json`` no more than whose it is."""

    identity: dict[str, JsonValue] | None = None


class _WrittenFile(_Document):
    bytes: Count
    sha256: _Sha256


class Manifest(RootModel[dict[_PlainName, _WrittenFile]]):
    """``COMPLETE``: every file of a checkpoint as it was written."""


class _PluginOrigin(_Document):
    distribution: str
    version: str


class EnvironmentDocument(_Document):
    """``environment.json``: versions and machine, by name.

    ``plugins`` has the origin of each part by its name; in version 0.1.0, versions by distribution.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    plugins: dict[str, _PluginOrigin | str] | None = None


class SiteReportDocument(_Document):
    """What a sender said of itself when widths were saved."""

    bits_a_value: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    has_codes: bool
    target_bits: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    column: Annotated[str, Field(min_length=1, max_length=40)] | None = None
    legal_bits: Annotated[list[_Bits], Field(min_length=2, max_length=2)] | None = None

    @field_validator("column")
    @classmethod
    def _one_line(cls, column: str | None) -> str | None:
        if column is not None and not column.isprintable():
            raise ValueError("a name of one line is due")
        return column


class BitsDocument(RootModel[dict[_Channel, SiteReportDocument]]):
    """``report`` in ``bits/*.npz``: what each sender said, by channel."""


class _ResolvedOptions(_Document):
    options: dict[str, JsonValue]


class OptionsDocument(RootModel[dict[_Sender, _ResolvedOptions]]):
    """``quantizer/options.json``: options with their defaults, by quantizer instance."""
