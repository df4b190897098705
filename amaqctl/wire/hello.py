"""`Hello`: opens a channel. Both ends say what they are about to do, and a difference is named
before the first tensor instead of failing in step 40."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from amaqctl.errors import WireError
from amaqctl.wire.frame import KIND_HELLO, MAX_HEADER_BYTES, read_frame, write_frame

_MAX_BYTES = MAX_HEADER_BYTES + 16


def _finite(options: dict[str, JsonValue]) -> dict[str, JsonValue]:
    # pydantic's `allow_inf_nan` does not reach into a `JsonValue` that is read from JSON.
    json.dumps(options, allow_nan=False)
    return options


class ChannelOffer(BaseModel):
    """One direction of one link: who quantizes it, with which options."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    link: Annotated[int, Field(ge=0, le=2**31 - 1)]
    role: Literal["activation", "gradient"]
    quantizer: Annotated[str, Field(min_length=1, max_length=64)]
    options: Annotated[dict[str, JsonValue], AfterValidator(_finite)]


class Hello(BaseModel):
    """What both ends must agree on.

    Args:
        session: identity of the run.
        model: what names the model, its revision and dtype.
        cuts: layer indices of the cuts.
        seed: of the run.
        channels: every quantizer with its options.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    session: Annotated[str, Field(max_length=64)]
    model: Annotated[str, Field(max_length=1024)]
    cuts: tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...]
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]
    channels: tuple[ChannelOffer, ...]

    def to_bytes(self) -> bytes:
        """The hello as one frame with an empty body."""
        return write_frame(KIND_HELLO, self, b"")

    @classmethod
    def from_bytes(cls, data: bytes) -> Hello:
        """Read a peer's hello.

        Raises:
            WireError: it is not a legal one.
        """
        header, body = read_frame(data, KIND_HELLO, cls, _MAX_BYTES)
        if len(body):
            raise WireError(f"a hello has no body, this one has {len(body)} bytes")
        return header

    def check_agrees(self, peer: Hello) -> None:
        """Compare with what the other end said.

        Raises:
            WireError: naming the first key that differs, with both values.
        """
        difference = first_difference(self.model_dump(), peer.model_dump(), "")
        if difference:
            key, mine, theirs = difference
            raise WireError(
                f"the two ends differ in {key}: {mine} here, {theirs} there",
                hint="start both from the same profile",
            )


def _shown(values: dict[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "nothing"


def first_difference(mine: Any, theirs: Any, key: str) -> tuple[str, str, str] | None:
    """Place of the first difference and both values as text."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in sorted({*mine, *theirs}):
            place = f"{key}.{name}" if key else str(name)
            if name not in mine or name not in theirs:  # null is a value, an absent key is none
                return place, _shown(mine, name), _shown(theirs, name)
            found = first_difference(mine[name], theirs[name], place)
            if found:
                return found
        return None
    are_lists = isinstance(mine, list | tuple) and isinstance(theirs, list | tuple)
    if are_lists and len(mine) == len(theirs):
        for index, pair in enumerate(zip(mine, theirs, strict=True)):
            found = first_difference(*pair, f"{key}[{index}]")
            if found:
                return found
        return None
    is_same = mine == theirs and isinstance(mine, bool) == isinstance(theirs, bool)
    return None if is_same else (key, repr(mine), repr(theirs))
