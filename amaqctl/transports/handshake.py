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

    absent = "absent"
    final = "final"
    unknown = "unknown"


# What TLS says of a peer's choice, by the words of OpenSSL (alerts of RFC 8446, section 6.2).
_ALERTS = {
    "CERTIFICATE_REQUIRED": "wants a certificate of this party",
    "UNKNOWN_CA": "does not trust the authority of this party's certificate",
    "CERTIFICATE_EXPIRED": "says that this party's certificate has expired",
    "BAD_CERTIFICATE": "does not take this party's certificate",
    "CERTIFICATE_UNKNOWN": "does not take this party's certificate",
    "DECRYPT_ERROR": "does not take this party's certificate",
    "HANDSHAKE_FAILURE": "finds no way of TLS that both ends know",
    "WRONG_VERSION_NUMBER": "speaks no TLS",
    "RECORD_LAYER_FAILURE": "speaks no TLS",
    "HTTP_REQUEST": "speaks no TLS",
}


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
        with context.wrap_socket(connection, server_hostname=peer) as wrapped:
            # From TLS 1.3 on the other side judges a certificate after this side is through.
            wrapped.recv(1)
            return Fault.unknown, ""
    except ssl.SSLCertVerificationError as error:
        return Fault.final, f"certificate of {place} not taken: {error.verify_message}"
    except ssl.SSLError as error:
        word = (error.reason or "").upper()
        found = [text for key, text in _ALERTS.items() if key in word]
        return Fault.final, f"{place} {found[0] if found else f'fails in TLS: {error.reason}'}"
    except ConnectionResetError:
        return Fault.unknown, f"{place} closes the connection during TLS"
    except OSError as error:
        return Fault.absent, f"{place} does not answer: {error.strerror or error}"


@contextlib.contextmanager
def _files(own: Credentials) -> Iterator[tuple[Path, Path]]:
    """The pair as files, which the ssl module wants, for its owner alone."""
    with tempfile.TemporaryDirectory(prefix="amaqctl-tls-") as folder:
        certificate, key = Path(folder) / "party.crt", Path(folder) / "party.key"
        write_secret(certificate, own.certificate)
        write_secret(key, own.key)
        yield certificate, key
