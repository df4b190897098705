"""The JSON header of a message, validated strictly. Absent keys have the defaults below."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from amaqctl.bits import BitAllocation
from amaqctl.bits.packing import WIDTHS, num_blocks
from amaqctl.quantizer import TensorContext

Count = Annotated[int, Field(ge=0, le=2**40)]
SmallCount = Annotated[int, Field(ge=0, le=2**31 - 1)]
Name = Annotated[str, Field(min_length=1, max_length=64)]

MAX_DIMENSIONS = 8
# Columns of width 0 take no bytes, so the message's length does not bound their number.
MAX_COLUMNS = 2**20


def _known_width(width: int) -> int:
    if width not in WIDTHS:
        raise ValueError("a width is one of 0 to 8 or 16")
    return width


# No `Literal`: that takes `true` for 1 and 8.0 for 8, even where types are strict.
Width = Annotated[
    int, AfterValidator(_known_width), Field(json_schema_extra={"enum": list(WIDTHS)})
]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SideHeader(_Strict):
    """One side tensor of the body."""

    name: Name
    dtype: Literal["float32", "bfloat16", "float16", "int32", "int16", "int8", "uint8"]
    shape: Annotated[tuple[SmallCount, ...], Field(max_length=MAX_DIMENSIONS)]


class CodesHeader(_Strict):
    """The packed codes: R rows, C columns, and one width for all (or none: a widths section)."""

    rows: SmallCount
    columns: Annotated[int, Field(ge=0, le=MAX_COLUMNS)]
    axis: Literal["channel", "position", "tensor"] = "channel"
    width: Width | None = None


class MessageHeader(_Strict):
    """Everything about a message but its body."""

    quantizer: Name
    role: Literal["activation", "gradient"]
    link: SmallCount
    step: Count
    total_steps: Count
    shape: Annotated[tuple[SmallCount, ...], Field(min_length=1, max_length=MAX_DIMENSIONS)]
    dtype: Literal["float32", "bfloat16", "float16"]
    sequence: Count = 0
    session: Annotated[str, Field(max_length=64)] = ""
    micro_batch: SmallCount = 0
    sample_ids: tuple[Count, ...] = ()
    lengths: tuple[SmallCount, ...] = ()
    left_padded: bool = False
    first_position: SmallCount = 0
    training: bool = True
    codes: CodesHeader | None = None
    side: Annotated[tuple[SideHeader, ...], Field(max_length=16)] = ()

    def context(self) -> TensorContext:
        """The tensor context that the header carries."""
        return TensorContext(
            role=self.role,
            link=self.link,
            step=self.step,
            total_steps=self.total_steps,
            micro_batch=self.micro_batch,
            sample_ids=self.sample_ids,
            lengths=self.lengths,
            left_padded=self.left_padded,
            first_position=self.first_position,
            training=self.training,
        )


def codes_header(num_rows: int, allocation: BitAllocation) -> CodesHeader:
    """Describe packed codes; equal widths ride here, unequal ones in a section of their own."""
    return CodesHeader(
        rows=num_rows,
        columns=allocation.num_columns,
        axis=allocation.axis,
        width=allocation.uniform_width,
    )


def packed_length(header: CodesHeader, total_width: int) -> int:
    """Bytes of the codes section: ceil(R/8) · sum of widths."""
    return num_blocks(header.rows) * total_width
