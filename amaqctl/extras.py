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
    hint = f"pip install matplotlib (the extra amaqctl[plot]), or export to {instead}"
    return _imported(module, "a picture needs matplotlib", where, hint)


def networking(module: str, where: str) -> Any:
    """``grpc``, or a module of cryptography.

    Args:
        where: what needs it.

    Raises:
        InputError: it cannot be imported; names the extra that brings it.
    """
    package = "grpcio" if module == "grpc" else "cryptography"
    hint = f"pip install {package} (the extra amaqctl[grpc])"
    return _imported(module, f"needs {package}", where, hint)


def _imported(module: str, need: str, where: str, hint: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{need}, which cannot be imported ({error})",
            where=where,
            hint=hint,
            error_id="INPUT-PACKAGE",
        ) from error
