"""Broken tensor files: safetensors and npz that are damaged, lie, or hold something else."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from typing import Any

from fuzzing.json_files import change_tree
from fuzzing.values import Draw, break_bytes

Entry = tuple[str, list[int], bytes]
_OTHER_NAMES = ("lm_head.bias", "x", "", "model.layers.99.a.b", "../x", "__metadata__", "é" * 300)
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1}
_NPY = b"\x93NUMPY"


def break_safetensors(draw: Draw, content: bytes) -> tuple[bytes, str]:
    """Tensors like those of ``content`` with something wrong, and what was done."""
    try:
        length = struct.unpack("<Q", content[:8])[0]
        header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
        entries = _entries(header, body)
    except (ValueError, struct.error, KeyError, TypeError, AttributeError, RecursionError):
        return break_bytes(draw, content)
    dice = draw.random()
    if dice < 0.1:
        told = draw.choice((0, 1, length - 1, length + 1, 2**32, 2**63, 2**64 - 1))
        return struct.pack("<Q", told) + content[8:], f"header of {told} bytes"
    if dice < 0.2:
        return content[: draw.randrange(len(content))], "cut"
    if dice < 0.3:
        return content + draw.randbytes(draw.choice((1, 8, 4096))), "more behind its end"
    if dice < 0.5:
        what = change_tree(draw, header)
        return _with_header(json.dumps(header).encode("utf-8", "surrogatepass"), body), what
    if dice < 0.55:
        text = draw.choice((b"[" * 300_000, b"{}", b"null", b'{"a":' * 90_000, b" " * 70_000))
        return _with_header(text, body), f"header {text[:9]!r}"
    what = _change_entry(draw, entries) if entries else "no tensor"
    return _written(entries), what


def _change_entry(draw: Draw, entries: dict[str, Entry]) -> str:
    """Another whole file: it is legal, but not the one that was saved."""
    name = draw.choice(list(entries))
    dtype, shape, data = entries[name]
    how = draw.randrange(7)
    if how == 0:
        del entries[name]
        return f"no {name}"
    if how == 1:
        new = draw.choice((*_OTHER_NAMES, name.upper(), f"{name}_scale"))
        entries[new] = entries.pop(name)
        return f"{name} named {new[:30]}"
    if how == 2:
        entries[draw.choice(_OTHER_NAMES)] = (dtype, shape, data)
        return f"{name} twice"
    if how == 3:
        shape = draw.choice((shape[::-1], [1, *shape], [*shape, 1], [len(data) // _size(dtype)]))
        entries[name] = (dtype, shape, data)
        return f"{name} of shape {shape}"
    if how == 4:
        other = draw.choice(list(_SIZES))
        count = len(data) // _size(dtype)
        entries[name] = (other, shape, (data * 8)[: count * _SIZES[other]])
        return f"{name} of {other}"
    if how == 5:
        few = draw.choice(([0], [], [1], [2, 0, 3]))
        count = 0 if 0 in few else 1
        entries[name] = (
            dtype,
            few,
            data[: count * _size(dtype)].ljust(count * _size(dtype), b"\0"),
        )
        return f"{name} of shape {few}"
    pattern = draw.choice((b"\xff", b"\x00", b"\x00\x00\x80\x7f", b"\x7f\x7f", b"\x00\x00\x00\xbf"))
    entries[name] = (dtype, shape, (pattern * len(data))[: len(data)])
    return f"{name} of {pattern.hex()}"


def break_npz(draw: Draw, content: bytes) -> tuple[bytes, str]:
    """Vectors like those of ``content`` with something wrong, and what was done."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except Exception:  # damaged by the change before
        members = []
    if not members:
        return break_bytes(draw, content)
    dice = draw.random()
    if dice < 0.2:
        noisy = bytearray(content)
        for _ in range(draw.choice((1, 1, 5))):
            noisy[draw.randrange(len(noisy))] = draw.randrange(256)
        return bytes(noisy), "bytes"
    if dice < 0.3:
        return content[: draw.randrange(len(content))], "cut"
    at = draw.randrange(len(members))
    name, data = members[at]
    if dice < 0.5:
        new = draw.choice(
            ("x.npy", ".npy", "../x.npy", name.upper(), name.replace("0", "99999999999"),
             name.replace(".", "/"), "link0.gradient.npy", "é.npy", name.removesuffix(".npy"))
        )  # fmt: skip
        members[at] = (new, data)
        what = f"{name} named {new[:40]}"
    elif dice < 0.6:
        members = draw.choice(([], members[:at] + members[at + 1 :], members * 3, members * 2000))
        what = f"{len(members)} members"
    else:
        data, what = _other_vector(draw, data)
        members[at] = (name, data)
    return _zipped(draw, members), what


def _other_vector(draw: Draw, data: bytes) -> tuple[bytes, str]:
    how = draw.randrange(6)
    if how == 0:
        return b"\0" * draw.choice((0, 100, 40_000_000)), "zeros"
    if how == 1:
        return break_bytes(draw, data)
    if how == 2:
        width = draw.choice((0, 9, 15, 16, 17, 255))
        return data[:-1] + bytes([width]), f"a width of {width}"
    descr = draw.choice(
        ("|u1", "|i1", "<i8", "<f4", "<f8", "|O", "<U5", "|b1", "<c16", "x", "(" * 9)
    )
    shape = draw.choice(("(0,)", "()", "(1,)", "(2, 32)", "(64,)", "(-1,)", "(10**12,)", "(1e9,)",
                         "(4294967296,)", "(" * 9000, "[64]", "None", "(True,)"))  # fmt: skip
    order = draw.choice(("False", "True", "None"))
    header = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    body = draw.randbytes(draw.choice((0, 64, 512)))
    return _NPY + b"\x01\x00" + struct.pack(
        "<H", len(header)
    ) + header + body, f"{descr} {shape[:20]}"


def _zipped(draw: Draw, members: list[tuple[str, bytes]]) -> bytes:
    import warnings

    out = io.BytesIO()
    method = draw.choice((0, 8, 8, 12, 14))
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


def _entries(header: dict[str, Any], body: bytes) -> dict[str, Entry]:
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            if not isinstance(entry["dtype"], str) or not isinstance(entry["shape"], list):
                raise TypeError(name)
            found[name] = (entry["dtype"], entry["shape"], body[start:end])
    return found


def _written(entries: dict[str, Entry]) -> bytes:
    header, body = {}, b""
    for name, (dtype, shape, data) in entries.items():
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        body += data
    return _with_header(json.dumps(header).encode(), body)


def _with_header(text: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text + body


def _size(dtype: str) -> int:
    return _SIZES.get(dtype, 1)
