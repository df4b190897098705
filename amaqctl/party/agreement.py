"""What parties compare before the first tensor, and what they say where they differ.

A greeting has two parts. What is *shared* must be the same on both sides, down to the last option:
a difference is named by its key. What is *told* may differ (versions, threads, the device; steps
that are saved), and a difference that can change last bits is a warning.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from amaqctl.errors import InputError, WireError
from amaqctl.party.difference import first_difference
from amaqctl.party.notes import Greeting

PROTOCOL = 1
"""Of notes and their order. Parties of two protocols do not understand each other."""
_Step = Annotated[int, Field(ge=0, le=2**53)]


class Told(BaseModel):
    """What a party says of itself.

    Args:
        name: of the party.
        versions: of amaqctl and of the packages that compute.
        threads, device: that it computes with.
        files: SHA-256 of the base's files by name; each party may have its own shards only.
        saved: steps of its good checkpoints of this run; of a server of several clients those
            that all of them have.
        clients: of a server of several, in the order of its sums.
        is_running: a server of several clients whose others are at work: one may join.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(max_length=64)]
    versions: dict[str, str]
    threads: int
    device: Annotated[str, Field(max_length=64)]
    files: dict[str, Annotated[str, Field(max_length=64)]] = {}
    saved: tuple[_Step, ...] = ()
    is_running: bool = False
    clients: tuple[Annotated[str, Field(max_length=64)], ...] = ()


class DataFacts(BaseModel):
    """What a follower must know of data that it never sees.

    Args:
        num_positions: longest sequence that crosses a cut, in tokens.
        num_samples: one more than the largest sample id.
        fingerprint: of the data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    num_positions: Annotated[int, Field(ge=1, le=2**24)]
    num_samples: Annotated[int, Field(ge=1, le=2**40)]
    fingerprint: Annotated[str, Field(max_length=128)]


class Document(BaseModel):
    """The document of a greeting.

    Args:
        protocol: see `PROTOCOL`.
        session: of the run, chosen by the leader; a follower that has stages of it says the same.
        shared: what must be the same; nested.
        told: what may differ.
        data: the leader's alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    protocol: int
    session: Annotated[str, Field(max_length=64)]
    shared: dict[str, JsonValue]
    told: Told
    data: DataFacts | None = None

    def greeting(self) -> Greeting:
        """As a note."""
        return Greeting(document=self.model_dump(mode="json"))

    @classmethod
    def of(cls, greeting: Greeting) -> Document:
        """The document of a peer's greeting.

        Raises:
            WireError: it is not legal.
        """
        try:
            return cls.model_validate_json(json.dumps(greeting.document))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise WireError(f"illegal greeting: {place}: {first['msg']}") from error


@dataclass(frozen=True)
class Agreement:
    """What two parties found out about each other."""

    theirs: Document
    warnings: tuple[str, ...]


def agree(mine: Document, theirs: Document) -> Agreement:
    """Compare two documents.

    Raises:
        InputError: they differ; the first key that does, and both values, are named.
    """
    peer = theirs.told.name
    pairs: list[tuple[Any, Any, str]] = [
        (mine.protocol, theirs.protocol, "protocol"),
        (mine.told.versions.get("amaqctl"), theirs.told.versions.get("amaqctl"), "version"),
        (mine.shared, theirs.shared, ""),
        (_of(mine, theirs), _of(theirs, mine), "model.files"),
        (mine.session, theirs.session, "session"),
    ]
    for here, there, key in pairs:
        found = first_difference(here, there, key)
        if found is not None:
            key, own, other = found
            raise InputError(
                f"the parties differ in {key}: {own} at {mine.told.name}, {other} at {peer}",
                hint="start all parties with one profile, one model and one amaqctl",
                error_id="PEER-DIFFERS",
            )
    return Agreement(theirs, tuple(_warnings(mine.told, theirs.told)))


def _of(one: Document, other: Document) -> dict[str, str]:
    """Digests of the files that both have."""
    names = one.told.files.keys() & other.told.files.keys()
    return {name: one.told.files[name] for name in names}


def _warnings(mine: Told, theirs: Told) -> list[str]:
    found = []
    for what, here, there in (
        *((n, v, theirs.versions.get(n)) for n, v in sorted(mine.versions.items())),
        ("threads", mine.threads, theirs.threads),
        ("device", mine.device, theirs.device),
    ):
        if here != there:
            found.append(
                f"{what}: {here} at {mine.name}, {there} at {theirs.name}; "
                "results may differ in their last bits from those of one machine"
            )
    return found


def newest_common(saved: Sequence[Sequence[int]]) -> int:
    """The newest step that all have saved; 0 where there is none."""
    common = set.intersection(*map(set, saved)) if saved else set()
    return max(common, default=0)


def versions() -> dict[str, str]:
    """Of what computes here."""
    from importlib.metadata import version

    return {name: version(name) for name in ("amaqctl", "torch", "transformers", "peft")}
