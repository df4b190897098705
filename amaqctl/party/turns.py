"""Whose turn it is, where the clients of one server train one at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Turns:
    """The same at every party, from what all have alike.

    Args:
        clients: in the order of the server's list; one that is not there lets its turn pass.
        num_steps: of a turn, which a mean of the clients' weights ends.
    """

    clients: tuple[str, ...]
    num_steps: int

    def at(self, step: int) -> str:
        """The client that trains at ``step``, from 0."""
        return self.clients[step // self.num_steps % len(self.clients)]
