"""How a trace file is laid out; reading and writing share nothing but this.

=========  ====  ==========================================================
offset     size  what (integers little-endian)
=========  ====  ==========================================================
0          4     ``AMQT``
4          4     trace version, 1
8          4     header length h in bytes
12         4     CRC-32 of the header
16         h     header, UTF-8 JSON, `TraceHeader`
=========  ====  ==========================================================

Then records in the order in which the messages were sent: their length in four bytes and the
message itself, an ordinary one of `amaqctl.wire` with its own CRC. A file ends with a record of
length zero and the number of messages in eight bytes, so a file that was cut off between two
records is told from a whole one.
"""

from __future__ import annotations

import struct
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from amaqctl.quantizer import Site
from amaqctl.wire.header import MAX_COLUMNS

MAGIC = b"AMQT"
TRACE_VERSION = 1
MAX_HEADER_BYTES = 2**20
PREFIX = struct.Struct("<4sIII")
RECORD_LENGTH = struct.Struct("<I")
END_COUNT = struct.Struct("<Q")

_Count = Annotated[int, Field(ge=0, le=2**40)]
_Size = Annotated[int, Field(ge=1, le=2**31 - 1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SiteFacts(_Strict):
    """One channel of the recorded run; what `amaqctl.quantizer.Site` says of it."""

    link: Annotated[int, Field(ge=0, le=2**31 - 1)]
    role: Literal["activation", "gradient"]
    num_channels: Annotated[int, Field(ge=1, le=MAX_COLUMNS)]
    max_positions: _Size
    num_samples: _Size
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)]

    @classmethod
    def of(cls, site: Site) -> SiteFacts:
        """What a trace keeps of a site."""
        return cls(**{name: getattr(site, name) for name in cls.model_fields})

    def site(self) -> Site:
        """As quantizers are told it."""
        return Site(**self.model_dump())


class TraceHeader(_Strict):
    """What replay needs to know and no message says.

    ``quantizer_lr`` is the learning rate that the recorded profile gives to quantizers that learn.
    """

    model: Annotated[str, Field(max_length=1024)]
    dtype: Literal["float32", "bfloat16", "float16"]
    profile: Annotated[str, Field(max_length=1024)]
    recorded_by: Annotated[str, Field(max_length=256)]
    first_step: _Count
    num_steps: _Size
    total_steps: _Count
    quantizer_lr: Annotated[float, Field(ge=0)]
    sites: Annotated[tuple[SiteFacts, ...], Field(min_length=1, max_length=4096)]
