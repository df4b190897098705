"""Reading one ``bits/*.npz`` without believing it: a zip archive of small uint8 vectors.

numpy would make room for whatever a member claims to be. Here a member is unpacked no further
than a vector of widths can be long, and its header must be the one that numpy writes for such a
vector.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amaqctl.errors import InputError
from amaqctl.storage import open_regular

_MAX_FILE_BYTES = 32 * 2**20
_MAX_MEMBERS = 4096
_MAX_UNPACKED_BYTES = 32 * 2**20
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
    rb"\{'descr': '\|u1', 'fortran_order': False, 'shape': \((\d{1,9}),\), \} *\n",
    re.DOTALL,
)


def read_widths(path: Path) -> dict[str, NDArray[np.uint8]]:
    """The vectors of a file, uint8 (C,), by name.

    Raises:
        FileNotFoundError: there is none.
        InputError: it is damaged, or holds something else.
    """
    with open_regular(path, _MAX_FILE_BYTES) as file:
        try:
            return _vectors(file)
        except _DAMAGED as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(why, where=str(path)) from error


def _vectors(file: BufferedReader) -> dict[str, NDArray[np.uint8]]:
    found: dict[str, NDArray[np.uint8]] = {}
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
            found[name] = _vector(name, data)
    return found


def _vector(name: str, data: bytes) -> NDArray[np.uint8]:
    header = _HEADER.match(data)
    num_columns = len(data) - header.end() if header else 0
    if header is None or int(header[1]) != num_columns or not num_columns:
        raise ValueError(f"'{name[:60]}' is no vector of widths, uint8 (C,)")
    widths_C = np.frombuffer(data, np.uint8, offset=header.end())
    if int(widths_C.max()) > _MAX_WIDTH:
        raise ValueError(f"'{name[:60]}' has a width of {widths_C.max()} bits")
    return widths_C
