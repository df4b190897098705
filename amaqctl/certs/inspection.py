"""What certificates say, and whether a party's own would be taken by others.

Needs cryptography: whoever imports this has asked `amaqctl.extras.networking` for it before.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization

from amaqctl.certs.folder import CERTIFICATE_SUFFIX, KEY_SUFFIX, Credentials, wide_permissions
from amaqctl.errors import InputError
from amaqctl.storage import read_bytes

_MAX_BYTES = 2**20
_SOON_DAYS = 30


@dataclass(frozen=True)
class CertificateFacts:
    """One certificate in words.

    Args:
        path: its file.
        name: the common name.
        names: DNS names and addresses it holds for.
        is_authority: whether it may sign others.
        expires: when it ends, UTC.
        fingerprint: SHA-256 of the certificate, in hexadecimal.
        warnings: what the user should know of it or of its key.
    """

    path: str
    name: str
    names: tuple[str, ...]
    is_authority: bool
    expires: datetime.datetime
    fingerprint: str
    warnings: tuple[str, ...]


def inspect_folder(folder: Path) -> list[CertificateFacts]:
    """Every certificate in a folder and those below it, by path; one that repeats is told once.

    Raises:
        InputError: there is none, or one cannot be read.
    """
    found: dict[str, CertificateFacts] = {}
    for path in sorted(folder.rglob(f"*{CERTIFICATE_SUFFIX}")):
        facts = inspect_certificate(path)
        found.setdefault(facts.fingerprint, facts)
    if not found:
        raise InputError(
            "no certificates there",
            where=str(folder),
            hint="make some with `amaqctl certs init`, or say where they are with --dir",
            error_id="INPUT-CERTIFICATE",
        )
    return list(found.values())


def inspect_certificate(path: Path) -> CertificateFacts:
    """What the certificate in a file says.

    Raises:
        InputError: it cannot be read, or is none.
    """
    certificate = _parsed(read_bytes(path, _MAX_BYTES), str(path))
    key = path.with_suffix(KEY_SUFFIX)
    warnings = [expiry_warning(certificate.not_valid_after_utc, str(path))]
    warnings.append(wide_permissions(key) if key.exists() else None)
    return CertificateFacts(
        str(path),
        _common_name(certificate),
        _names(certificate),
        _is_authority(certificate),
        certificate.not_valid_after_utc,
        certificate.fingerprint(hashes.SHA256()).hex(),
        tuple(text for text in warnings if text),
    )


def expiry_warning(expires: datetime.datetime, where: str) -> str | None:
    """A warning for what has expired or will within thirty days."""
    left = expires - datetime.datetime.now(datetime.UTC)
    if left < datetime.timedelta():
        return f"{where}: expired on {expires:%Y-%m-%d}"
    if left < datetime.timedelta(days=_SOON_DAYS):
        return f"{where}: expires on {expires:%Y-%m-%d}, in {left.days} days"
    return None


def check_credentials(credentials: Credentials, where: str) -> None:
    """Find out before any handshake whether others could take these.

    Raises:
        InputError: certificate and key are no pair, the authority has not signed it, its name is
            another one, or it is not valid today.
    """
    certificate = _parsed(credentials.certificate, where)
    authority = _parsed(credentials.authority, where)
    fault = _fault(certificate, authority, credentials)
    if fault is not None:
        raise InputError(
            f"certificate of '{credentials.name}': {fault}",
            where=where,
            hint="make a new one with `amaqctl certs client`",
            error_id="INPUT-CERTIFICATE",
        )


def _fault(
    certificate: x509.Certificate, authority: x509.Certificate, credentials: Credentials
) -> str | None:
    try:
        key = serialization.load_pem_private_key(credentials.key, None)
    except (ValueError, TypeError) as error:
        return f"its key cannot be read: {error}"
    if key.public_key() != certificate.public_key():
        return "the key is that of another certificate"
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return "the authority in ca.crt has not signed it"
    if credentials.name not in _names(certificate):
        return f"it is for {', '.join(_names(certificate)) or 'nobody'}"
    now = datetime.datetime.now(datetime.UTC)
    for what, found in (("it", certificate), ("its authority", authority)):
        if found.not_valid_after_utc < now:
            return f"{what} expired on {found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        if found.not_valid_before_utc > now:
            return f"{what} holds only from {found.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on"
    return None


def _parsed(pem: bytes, where: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise InputError(
            f"no certificate: {error}", where=where, error_id="INPUT-CERTIFICATE"
        ) from error


def _common_name(certificate: x509.Certificate) -> str:
    found = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    names = found.get_values_for_type(x509.DNSName)
    return (*names, *map(str, found.get_values_for_type(x509.IPAddress)))


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    return found.ca
