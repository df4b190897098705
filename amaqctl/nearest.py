"""What a wrong name may have been meant to be, and lists of names that fit a message."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from itertools import islice

_LONGEST_NAME = 100
_MOST_LISTED = 20
_MOST_COMPARED = 10_000


def nearest(name: str, known: Iterable[str], but: Collection[str] = ()) -> str | None:
    """The one of ``known`` that ``name`` is most plausibly a slip of; None where none is.

    Args:
        but: names that mean something else already and so are no slip of this one.
    """
    if len(name) > _LONGEST_NAME:
        return None
    candidates = [
        k for k in islice(known, _MOST_COMPARED) if k not in but and len(k) <= _LONGEST_NAME
    ]
    by_case = {k.lower(): k for k in candidates}
    near = difflib.get_close_matches(name.lower(), by_case, n=1, cutoff=0.65)
    return by_case[near[0]] if near else None


def listed(names: Iterable[str]) -> str:
    """``a, b, c`` for a message; of very many, or very long ones, only the beginning."""
    names = list(names)
    shown = [n if len(n) <= _LONGEST_NAME else f"{n[:_LONGEST_NAME]}…" for n in names]
    more = f" and {len(names) - _MOST_LISTED:,} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(shown[:_MOST_LISTED]) + more
