"""Why no stream opens, in words. gRPC tells it in the words of its libraries, or not at all.

One TLS handshake is made for its error alone; nothing is sent over it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from amaqctl.certs.folder import Credentials
from amaqctl.storage import write_secret
from amaqctl.transports.place import Place

_SECONDS = 5.0


class Fault(Enum):
    """Whether waiting can help."""

    absent = "absent"  # nobody is there yet
    likely = "likely"  # final, unless the network had a bad moment
    final = "final"
    unknown = "unknown"  # the handshake goes well


def explain(place: Place, own: Credentials, peer: str) -> tuple[Fault, str]:
    """Try to reach ``peer`` at ``place`` and say what is wrong; an empty text if nothing is."""
    try:
        with socket.create_connection(place, _SECONDS) as connection:
            return _handshake(connection, place, own, peer)
    except socket.gaierror:
        return Fault.final, f"the host '{place.host}' is unknown"
    except ConnectionRefusedError:
        return Fault.absent, f"nobody listens at {place} yet"
    except OSError as error:
        return Fault.absent, f"{place} cannot be reached: {error.strerror or error}"


def _handshake(
    connection: socket.socket, place: Place, own: Credentials, peer: str
) -> tuple[Fault, str]:
    context = ssl.create_default_context(cadata=own.authority.decode("ascii", "replace"))
    with _files(own) as (certificate, key):
        context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    try:
        wrapped = context.wrap_socket(connection, server_hostname=peer)
    except ssl.SSLCertVerificationError as error:
        return Fault.final, f"certificate of {place} not taken: {error.verify_message}"
    except (ssl.SSLEOFError, ConnectionResetError):
        # A port that is forwarded is open although nobody listens behind it.
        return Fault.absent, f"{place} ends the connection: nobody listens behind it yet"
    except OSError as error:
        return _fault_of(error, place)
    with wrapped:
        return _verdict(wrapped, place)


def _verdict(wrapped: ssl.SSLSocket, place: Place) -> tuple[Fault, str]:
    """What the other side makes of this one's certificate.

    From TLS 1.3 on it judges after this side is through, and gRPC closes without a word. It speaks
    first where it is content.
    """
    try:
        if wrapped.recv(1):
            return Fault.unknown, ""
    except (ssl.SSLEOFError, ConnectionResetError):
        pass
    except OSError as error:
        return _fault_of(error, place)
    return (
        Fault.likely,
        f"{place} does not take this party's certificate: another authority, or expired",
    )


def _fault_of(error: OSError, place: Place) -> tuple[Fault, str]:
    if not isinstance(error, ssl.SSLError):
        return Fault.absent, f"{place} does not answer: {error.strerror or error}"
    words = (error.reason or "unknown reason").replace("_", " ").lower()
    is_foreign = "wrong version" in words or "record layer" in words
    return Fault.final, f"{place} " + ("speaks no TLS" if is_foreign else f"ends TLS: {words}")


@contextlib.contextmanager
def _files(own: Credentials) -> Iterator[tuple[Path, Path]]:
    """The pair as files, which the ssl module wants, for its owner alone."""
    with tempfile.TemporaryDirectory(prefix="amaqctl-tls-") as folder:
        certificate, key = Path(folder) / "party.crt", Path(folder) / "party.key"
        write_secret(certificate, own.certificate)
        write_secret(key, own.key)
        yield certificate, key
