"""Packages that are installed only where they are wanted."""

from __future__ import annotations

import importlib
import importlib.util
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


def low_bit(module: str, where: str) -> Any:
    """``bitsandbytes``, or a module of it.

    Args:
        where: what needs it.

    Raises:
        InputError: it cannot be imported; names the extra that brings it.
    """
    return _imported(module, _LOW_BIT_NEED, where, _LOW_BIT_HINT)


def refuse_without_low_bit(where: str) -> None:
    """Look whether bitsandbytes is there without importing it, since that imports torch.

    Args:
        where: what needs it.

    Raises:
        InputError: it is not; names the extra that brings it.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise _absent(_LOW_BIT_NEED, "No module named 'bitsandbytes'", where, _LOW_BIT_HINT)


_LOW_BIT_NEED = "needs bitsandbytes"
_LOW_BIT_HINT = (
    "pip install bitsandbytes (the extra amaqctl[low-bit]), or set model.base_bits to null"
)


def _imported(module: str, need: str, where: str, hint: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _absent(need, error, where, hint) from error


def _absent(need: str, reason: object, where: str, hint: str) -> InputError:
    return InputError(
        f"{need}, which cannot be imported ({reason})",
        where=where,
        hint=hint,
        error_id="INPUT-PACKAGE",
    )
