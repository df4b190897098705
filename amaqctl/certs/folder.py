"""Files of certificates: what stands where, and whether others could read a key.

::

    certs/                 made by `amaqctl certs init`
    ├── ca/ca.crt, ca.key  the authority; its key stays where it was made
    └── alice/             what goes to alice's machine, and nowhere else
        ├── ca.crt         whom she trusts
        ├── alice.crt      who she is
        └── alice.key      how she proves it
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from amaqctl.errors import InputError
from amaqctl.storage import read_bytes

AUTHORITY = "ca"
CA_FILE = "ca.crt"
KEY_SUFFIX = ".key"
CERTIFICATE_SUFFIX = ".crt"
_MAX_BYTES = 2**20  # a chain of certificates has some thousands


@dataclass(frozen=True)
class Credentials:
    """What a party needs for TLS, as PEM bytes."""

    name: str
    authority: bytes
    certificate: bytes
    key: bytes


def read_credentials(folder: Path, name: str) -> Credentials:
    """Read the three files of party ``name``.

    Raises:
        InputError: one is missing or cannot be read.
    """
    files = (CA_FILE, f"{name}{CERTIFICATE_SUFFIX}", f"{name}{KEY_SUFFIX}")
    hint = f"it comes in the folder '{name}' that `amaqctl certs` made for this party"
    authority, certificate, key = (_read(folder / file, hint) for file in files)
    return Credentials(name, authority, certificate, key)


def read_authority(folder: Path) -> tuple[bytes, bytes]:
    """Certificate and key of the authority, as PEM bytes.

    Raises:
        InputError: one is missing or cannot be read.
    """
    hint = "make an authority with `amaqctl certs init`, or say where it is with --dir"
    return _read(folder / CA_FILE, hint), _read(folder / f"{AUTHORITY}{KEY_SUFFIX}", hint)


def _read(path: Path, hint: str) -> bytes:
    try:
        return read_bytes(path, _MAX_BYTES)
    except FileNotFoundError:
        raise InputError(
            "no such file", where=str(path), hint=hint, error_id="INPUT-CERTIFICATE"
        ) from None


def wide_permissions(key: Path) -> str | None:
    """A warning, where others than the owner may read a key."""
    mode = stat.S_IMODE(key.stat().st_mode)
    if mode & 0o077:
        return f"{key}: others may read this key (mode {mode:04o}): chmod 600 it"
    return None
