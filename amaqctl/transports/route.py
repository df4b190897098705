"""Who holds each stage, and so who sends and who receives at an address."""

from __future__ import annotations

from dataclasses import dataclass

from amaqctl.errors import InputError
from amaqctl.transports.transport import ACTIVATION, GRADIENT, ORDER, REPLY, Address


@dataclass(frozen=True)
class Route:
    """One session's parties as one of them sees them.

    A server of several clients has a route for each client; nothing in an address has to say
    which one it belongs to.

    Args:
        holders: name of the party that holds each stage, in the order of the stages.
        me: name of the party of this process.

    Raises:
        InputError: no stages, or none of them is held here.
    """

    holders: tuple[str, ...]
    me: str

    def __post_init__(self) -> None:
        if not self.holders:
            raise InputError("no party holds a stage", hint="say who holds each stage")
        if self.me not in self.holders:
            raise InputError(
                f"party '{self.me}' holds no stage: {', '.join(dict.fromkeys(self.holders))} do",
                hint="start this process under one of those names",
                error_id="INPUT-PARTY",
            )

    @property
    def leader(self) -> str:
        """The party of stage 0: it has the data and gives the orders."""
        return self.holders[0]

    @property
    def leads(self) -> bool:
        """Whether that is this process."""
        return self.me == self.leader

    @property
    def stages(self) -> tuple[int, ...]:
        """Numbers of the stages held here, ascending."""
        return tuple(n for n, holder in enumerate(self.holders) if holder == self.me)

    @property
    def peers(self) -> tuple[str, ...]:
        """The other parties that this one exchanges bytes with, in the order of their stages."""
        ends = [self.ends(address) for address in self.addresses]
        known = {party for pair in ends if self.me in pair for party in pair}
        return tuple(p for p in dict.fromkeys(self.holders) if p != self.me and p in known)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Every address of the session: two a cut, two a stage."""
        cuts = range(len(self.holders) - 1)
        of_cuts = [Address(cut, role) for cut in cuts for role in (ACTIVATION, GRADIENT)]
        stages = range(len(self.holders))
        return (*of_cuts, *(Address(n, role) for n in stages for role in (ORDER, REPLY)))

    def ends(self, address: Address) -> tuple[str, str]:
        """Sender and receiver of an address; the same party where it holds both sides.

        Raises:
            InputError: the session has no such address.
        """
        last = len(self.holders) - (2 if address.role in (ACTIVATION, GRADIENT) else 1)
        if not 0 <= address.link <= last:
            raise InputError(f"no {address} among {len(self.holders)} stages")
        if address.role == ORDER:
            return self.leader, self.holders[address.link]
        if address.role == REPLY:
            return self.holders[address.link], self.leader
        front, back = self.holders[address.link], self.holders[address.link + 1]
        if address.role == ACTIVATION:
            return front, back
        if address.role == GRADIENT:
            return back, front
        raise InputError(f"no {address}: no such role")
