"""What belongs to one machine and so to no profile: who it is, where it listens, its certificates.

The line is drawn at what both sides must have alike. A profile, which both have, says which
transport carries the run and how patient it is (`Config` of the transport): a difference there
would make one side give up while the other waits. Names, addresses, paths and the list of who may
come are each side's own business; the holders of the stages stand here because they name parties,
and the parties compare them before the first tensor.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from amaqctl.certs.name import checked_name
from amaqctl.errors import UsageError
from amaqctl.transports.place import checked_place
from amaqctl.transports.route import Route

PartyName = Annotated[str, AfterValidator(checked_name)]
PlaceText = Annotated[str, AfterValidator(checked_place)]


class PartySettings(BaseModel):
    """A machine's own settings for one session."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: PartyName = Field(
        description="This party's name, as in its certificate; under torchrun it may be left out, "
        "and is that of the process's number among the holders."
    )
    holders: tuple[PartyName, ...] = Field(
        min_length=1, description="The party that holds each stage, in the order of the stages."
    )
    listen: PlaceText | None = Field(
        None, description="HOST:PORT at which peers are awaited; null where all are dialled."
    )
    connect: dict[PartyName, PlaceText] = Field(
        default_factory=dict, description="HOST:PORT of every peer that this party dials."
    )
    certificates: Path | None = Field(
        None, description="Folder with ca.crt, NAME.crt and NAME.key (amaqctl certs)."
    )
    clients: tuple[PartyName, ...] = Field(
        (),
        description="Of a server: the parties that each take the place of the first holder, in "
        "the order of its sums; empty where that one is the only client.",
    )
    quorum: int | None = Field(
        None, ge=1, description="Begin when so many clients have come; null means all."
    )
    allowed: tuple[PartyName, ...] = Field(
        (), description="Parties that may dial in; empty means the other holders."
    )

    @model_validator(mode="before")
    @classmethod
    def _named_by_rank(cls, data: Any) -> Any:
        """A launcher starts all processes with one file, and numbers them."""
        rank = os.environ.get("RANK", "")
        if not isinstance(data, dict) or "name" in data or not rank.isdecimal():
            return data
        names = list(dict.fromkeys(map(str, data.get("holders") or ())))
        return {**data, "name": names[int(rank)]} if int(rank) < len(names) else data

    @model_validator(mode="after")
    def _checked_clients(self) -> PartySettings:
        if not self.clients:
            if self.quorum is not None:
                raise ValueError("quorum: there are no clients that it could count")
            return self
        others = set(self.holders) - {self.name}
        if len(others) != 1 or self.holders[0] == self.name:
            raise ValueError(
                "clients: a server of several has stages itself, and all others are the client's"
            )
        if len(set(self.clients)) < len(self.clients) or self.name in self.clients:
            raise ValueError("clients: each name once, and not this party's own")
        if (self.quorum or 1) > len(self.clients):
            raise ValueError(f"quorum: there are {len(self.clients)} clients")
        return self

    def for_client(self, client: str) -> PartySettings:
        """The settings of a server toward one of its clients."""
        names = tuple(name if name == self.name else client for name in self.holders)
        return self.model_copy(update={"holders": names, "clients": (), "quorum": None})

    @property
    def route(self) -> Route:
        """Who holds what, as this party sees it.

        Raises:
            InputError: this party holds no stage.
        """
        return Route(self.holders, self.name)

    @property
    def may_dial_in(self) -> frozenset[str]:
        """Names that are let in."""
        return frozenset(self.allowed or self.clients or self.holders) - {self.name}


def given(party: PartySettings | None, where: str) -> PartySettings:
    """This machine's settings, without which no transport between machines can be made.

    Raises:
        UsageError: there are none.
    """
    if party is None:
        raise UsageError(
            "it joins the processes of several parties, and this is one process alone",
            where=where,
            hint="give --party FILE at every party, or use transport.name=loopback",
        )
    return party


@dataclass(frozen=True)
class TrafficLimits:
    """What one peer may make this process hold.

    Args:
        max_message_bytes: the session's longest legal message. Before the parties have agreed
            that is the longest greeting.
        max_queued_messages: most messages of a peer that may lie unread: those in flight at all
            addresses between the two, which the micro-batches of a step bound.
    """

    max_message_bytes: int = 2**20
    max_queued_messages: int = 16

    @property
    def queue_bytes(self) -> int:
        """Most bytes of a peer that wait to be received, and most that wait to be acknowledged.

        It is ``max_message_bytes`` · ``max_queued_messages``; each message counts as its length
        and `MESSAGE_OVERHEAD_BYTES`, so that very short ones are bounded too.
        """
        return (self.max_message_bytes + MESSAGE_OVERHEAD_BYTES) * self.max_queued_messages


# What a queued byte string takes beside its bytes, generously.
MESSAGE_OVERHEAD_BYTES = 256
