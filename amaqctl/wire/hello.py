"""`Hello`: opens a channel. Both ends say what they are about to do, and a difference is named
before the first tensor instead of failing in step 40."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from amaqctl.errors import WireError
from amaqctl.wire.frame import KIND_HELLO, MAX_HEADER_BYTES, read_frame, write_frame

_MAX_BYTES = MAX_HEADER_BYTES + 16


class ChannelOffer(BaseModel):
    """One direction of one link: who quantizes it, with which options."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    link: Annotated[int, Field(ge=0, le=2**31 - 1)]
    role: Literal["activation", "gradient"]
    quantizer: Annotated[str, Field(min_length=1, max_length=64)]
    options: dict[str, JsonValue]


class Hello(BaseModel):
    """What both ends must agree on.

    Args:
        session: identity of the run.
        model: what names the model, its revision and dtype.
        cuts: layer indices of the cuts.
        seed: of the run.
        channels: every quantizer with its options.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    session: Annotated[str, Field(max_length=64)]
    model: Annotated[str, Field(max_length=1024)]
    cuts: tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...]
    seed: Annotated[int, Field(ge=0, lt=2**32)]
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
        difference = _first_difference(self.model_dump(), peer.model_dump(), "")
        if difference:
            key, mine, theirs = difference
            raise WireError(
                f"the two ends differ in {key}: {mine!r} here, {theirs!r} there",
                hint="start both from the same profile",
            )


def _first_difference(mine: Any, theirs: Any, key: str) -> tuple[str, Any, Any] | None:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in sorted({*mine, *theirs}):
            found = _first_difference(
                mine.get(name), theirs.get(name), f"{key}.{name}" if key else str(name)
            )
            if found:
                return found
        return None
    are_lists = isinstance(mine, list | tuple) and isinstance(theirs, list | tuple)
    if are_lists and len(mine) == len(theirs):
        for index, pair in enumerate(zip(mine, theirs, strict=True)):
            found = _first_difference(*pair, f"{key}[{index}]")
            if found:
                return found
        return None
    is_same = mine == theirs and isinstance(mine, bool) == isinstance(theirs, bool)
    return None if is_same else (key, mine, theirs)
