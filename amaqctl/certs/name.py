"""Names of parties. A name stands in a certificate as a DNS name, and in file names."""

from __future__ import annotations

import re

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_LONGEST = 64  # what a certificate's common name may have


def checked_name(name: str) -> str:
    """The name as it is, where it is one.

    Raises:
        ValueError: it is none.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise ValueError(
            f"'{name}' is no name of a party: small letters, digits, '-' and '.', "
            f"at most {_LONGEST}, as in alice or clinic-2.example.org"
        )
    return name
