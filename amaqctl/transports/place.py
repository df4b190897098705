"""Where a party listens: ``HOST:PORT``, with an IPv6 address in brackets."""

from __future__ import annotations

from typing import NamedTuple

_HIGHEST_PORT = 65535


class Place(NamedTuple):
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_place(text: str) -> Place:
    """Take ``HOST:PORT`` apart. Port 0 asks the system for a free one, where a party listens.

    Raises:
        ValueError: it is something else.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address stands in brackets: [::1]:4040")
    is_number = port.isascii() and port.isdigit()
    if not colon or not host or not is_number or int(port) > _HIGHEST_PORT:
        raise ValueError("a place is HOST:PORT, such as 10.0.0.7:4040")
    return Place(host, int(port))


def checked_place(text: str) -> str:
    """The text as it is, where it is a place; raises ValueError as `parse_place` does."""
    parse_place(text)
    return text
