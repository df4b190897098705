"""Packages that are installed only where they are wanted."""

from __future__ import annotations

import importlib
from typing import Any

from amaqctl.errors import InputError


def plotting(module: str, where: str, instead: str) -> Any:
    """A module of matplotlib, such as ``matplotlib.figure``.

    Args:
        where: the file that needs it. instead: endings that do not.

    Raises:
        InputError: it cannot be imported; names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"a picture needs matplotlib, which cannot be imported ({error})",
            where=where,
            hint=f"pip install matplotlib (the extra amaqctl[plot]), or export to {instead}",
            error_id="INPUT-PACKAGE",
        ) from error
