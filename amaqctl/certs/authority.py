"""A small certificate authority: elliptic keys, one certificate a party, nothing revoked.

Needs cryptography: whoever imports this has asked `amaqctl.extras.networking` for it before.

To shut a party out take it off the list of those that may come; to change a certificate make a
new one. Everything is signed by one key, which no running party needs.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from amaqctl.certs.folder import (
    AUTHORITY,
    CA_FILE,
    CERTIFICATE_SUFFIX,
    KEY_SUFFIX,
    Credentials,
    read_authority,
)
from amaqctl.errors import InputError
from amaqctl.storage import AlreadyThere, write_folder, write_secret

AUTHORITY_DAYS = 3650
PARTY_DAYS = 365
_CLOCK_DAYS = 1  # other machines' clocks may be behind


def make_authority(folder: Path, server: str, hosts: Sequence[str], num_days: int) -> None:
    """Write ``folder`` with a new authority and the credentials of its first party.

    Args:
        hosts: DNS names and addresses under which the party is reached, beside its name.
        num_days: for which the party's certificate holds.

    Raises:
        AlreadyThere: something is in ``folder``.
        InputError: the name is that of the authority.
        ResourceError: it cannot be written.
    """
    _refuse_reserved(server)
    key, certificate = _new_authority()
    party = _issue(key, certificate, server, hosts, num_days)

    def write(made: Path) -> None:
        (made / AUTHORITY).mkdir()
        (made / AUTHORITY / CA_FILE).write_bytes(_pem(certificate))
        write_secret(made / AUTHORITY / f"{AUTHORITY}{KEY_SUFFIX}", _key_pem(key))
        (made / server).mkdir()
        _write_credentials(made / server, party)

    try:
        write_folder(folder, write, secret=KEY_SUFFIX)
    except AlreadyThere as error:
        raise AlreadyThere(
            "is there already, and nothing is overwritten",
            where=str(folder),
            hint="choose another folder with --dir, or add a party with `amaqctl certs client`",
        ) from error


def make_party(folder: Path, name: str, hosts: Sequence[str], num_days: int) -> None:
    """Write ``folder/name`` with new credentials, signed by the authority in ``folder``.

    Raises:
        AlreadyThere: the party has some already.
        InputError: no authority is there, or it cannot be read.
        ResourceError: it cannot be written.
    """
    _refuse_reserved(name)
    key, certificate = _read_authority(folder)
    party = _issue(key, certificate, name, hosts, num_days)
    try:
        write_folder(folder / name, lambda made: _write_credentials(made, party), secret=KEY_SUFFIX)
    except AlreadyThere as error:
        raise AlreadyThere(
            "is there already, and nothing is overwritten",
            where=str(folder / name),
            hint="to renew the certificate, move this folder away first",
        ) from error


def _refuse_reserved(name: str) -> None:
    if name == AUTHORITY:
        raise InputError(f"'{AUTHORITY}' is the authority's own folder", hint="choose another name")


def _new_authority() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = _new_key()
    name = _distinguished("amaqctl authority")
    builder = _begun(name, name, key, AUTHORITY_DAYS, None)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(is_authority=True), critical=True)
    return key, _signed(builder, key)


def _issue(
    authority_key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    name: str,
    hosts: Sequence[str],
    num_days: int,
) -> Credentials:
    key = _new_key()
    end = authority.not_valid_after_utc
    builder = _begun(_distinguished(name), authority.subject, key, num_days, end)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(_usage(is_authority=False), critical=True)
    # Who dials and who listens is decided later.
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
        critical=False,
    )
    names = [x509.DNSName(name), *(_host(host) for host in hosts if host != name)]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), False
    )
    return Credentials(name, _pem(authority), _pem(_signed(builder, authority_key)), _key_pem(key))


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    num_days: int,
    latest: datetime.datetime | None,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=num_days)
    builder: x509.CertificateBuilder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=_CLOCK_DAYS))
        .not_valid_after(end if latest is None else min(end, latest))
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return builder.add_extension(identifier, critical=False)


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _distinguished(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return builder.sign(key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_credentials(folder: Path, party: Credentials) -> None:
    (folder / CA_FILE).write_bytes(party.authority)
    (folder / f"{party.name}{CERTIFICATE_SUFFIX}").write_bytes(party.certificate)
    write_secret(folder / f"{party.name}{KEY_SUFFIX}", party.key)


def _read_authority(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    certificate, key_pem = read_authority(folder / AUTHORITY)
    try:
        key = serialization.load_pem_private_key(key_pem, None)
        found = x509.load_pem_x509_certificate(certificate)
    except (ValueError, TypeError) as error:
        raise _no_authority(folder, str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != found.public_key():
        raise _no_authority(folder, "the key is not that of the certificate")
    return key, found


def _no_authority(folder: Path, why: str) -> InputError:
    place = str(folder / AUTHORITY)
    return InputError(f"no authority: {why}", where=place, error_id="INPUT-CERTIFICATE")
