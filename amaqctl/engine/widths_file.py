"""Reading one ``bits/*.npz`` without believing it: a zip archive of small vectors.

numpy would make room for whatever a member claims to be. Here a member is unpacked no further
than all that may be in such a file, and its header must be the one that numpy writes for a vector
of the kind that is due under its name: widths and text are uint8, what was measured is float32.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amaqctl.engine.bits_report import MEASURED, REPORT, Vector
from amaqctl.errors import InputError
from amaqctl.storage import open_regular

_MAX_FILE_BYTES = 32 * 2**20
_MAX_MEMBERS = 4096
_MAX_UNPACKED_BYTES = 32 * 2**20
_MAX_REPORT_BYTES = 2**20
_MAX_WIDTH = 16
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What zipfile raises for damaged archives.
_DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00.."
    rb"\{'descr': '(\|u1|<f4)', 'fortran_order': False, 'shape': \((\d{1,9}),\), \} *\n",
    re.DOTALL,
)
_MEASURED = tuple(f".{name}" for name in MEASURED)


@dataclass(frozen=True)
class BitsFile:
    """What a file holds.

    Args:
        widths: uint8 (C,) by name.
        measured: float32 (K,), finite and not negative, by name.
        report: a JSON document; None in files of version 0.1.0, which have widths only.
    """

    widths: dict[str, NDArray[np.uint8]]
    measured: dict[str, Vector]
    report: bytes | None


def read_bits_file(path: Path) -> BitsFile:
    """The vectors of a file.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is damaged, or holds something else.
    """
    with open_regular(path, _MAX_FILE_BYTES) as file:
        try:
            return _sorted_out(_members(file))
        except _DAMAGED as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(why, where=str(path)) from error


def _members(file: BufferedReader) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    num_left = _MAX_UNPACKED_BYTES
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > _MAX_MEMBERS:
            raise ValueError(f"{len(members)} members, at most {_MAX_MEMBERS} are legal")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in found or name == member.filename or member.compress_type not in _METHODS:
                raise ValueError(f"'{member.filename[:60]}' is no member of such a file")
            with archive.open(member) as content:
                data = content.read(num_left + 1)
            num_left -= len(data)
            if num_left < 0:
                raise ValueError(f"more than {_MAX_UNPACKED_BYTES} bytes when unpacked")
            found[name] = data
    return found


def _sorted_out(members: dict[str, bytes]) -> BitsFile:
    widths: dict[str, NDArray[np.uint8]] = {}
    measured: dict[str, Vector] = {}
    report = None
    for name, data in members.items():
        if name.endswith(_MEASURED):
            measured[name] = _measured(name, data)
        elif name == REPORT:
            report = _payload(name, data, b"|u1", "text, uint8 (N,)")
            if len(report) > _MAX_REPORT_BYTES:
                raise ValueError(f"'{name}' has {len(report)} bytes")
        else:
            widths[name] = _widths(name, data)
    return BitsFile(widths, measured, report)


def _payload(name: str, data: bytes, descr: bytes, what: str) -> bytes:
    header = _HEADER.match(data)
    payload = data[header.end() :] if header else b""
    size = 4 if descr == b"<f4" else 1
    if header is None or header[1] != descr or int(header[2]) * size != len(payload) or not payload:
        raise ValueError(f"'{name[:60]}' is no {what}")
    return payload


def _widths(name: str, data: bytes) -> NDArray[np.uint8]:
    widths_C = np.frombuffer(_payload(name, data, b"|u1", "vector of widths, uint8 (C,)"), np.uint8)
    if int(widths_C.max()) > _MAX_WIDTH:
        raise ValueError(f"'{name[:60]}' has a width of {widths_C.max()} bits")
    return widths_C


def _measured(name: str, data: bytes) -> Vector:
    payload = _payload(name, data, b"<f4", "vector of measurements, float32 (K,)")
    values_K = np.frombuffer(payload, "<f4").astype(np.float32)
    if not (np.isfinite(values_K).all() and (values_K >= 0).all()):
        raise ValueError(f"'{name[:60]}' holds what cannot have been measured")
    return values_K
