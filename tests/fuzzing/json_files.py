"""Broken JSON: a value of the tree is another, or the text is no such tree."""

from __future__ import annotations

import json
from typing import Any

from fuzzing.values import Draw, break_bytes, break_text, odd_text, odd_value

_WHOLE = (
    b"", b"{}", b"[]", b"null", b"true", b"5", b'"x"', b"[{}]", b"\xff\xfe{}", b"\0" * 64, b"{" * 9,
    b"[" * 200_000, b'{"a":' * 100_000, b"[" * 60_000 + b"]" * 60_000, b'{"a": NaN}', b"1" * 9000,
    b"-1e999999", b'"' + b"x" * 3_000_000 + b'"', b" " * 5_000_000, b'{"schema": "amaqctl.run/1"}',
)  # fmt: skip
_NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 5, 16, 17, 255, 256, 10**6, 2**31, 2**40, 2**53, 2**53 + 1, 2**63, 2**64,
    10**30, 0.5, -0.5, 1e-9, 1e38, 1e300, float("nan"), float("inf"),
)  # fmt: skip
_DEEPEST = 20


def break_json(draw: Draw, content: bytes) -> tuple[bytes, str]:
    """JSON like ``content`` with something wrong, and what was done; mostly still JSON."""
    dice = draw.random()
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document, dice = None, max(dice, 0.8)
    if dice < 0.8:
        what = [change_tree(draw, document) for _ in range(draw.choice((1, 1, 1, 2, 5)))]
        text = json.dumps(document, ensure_ascii=draw.random() < 0.8)
        return text.encode("utf-8", "surrogatepass"), "; ".join(what)[:150]
    if dice < 0.87:
        whole = draw.choice(_WHOLE)
        return whole, f"{whole[:20]!r} of {len(whole)} bytes"
    if dice < 0.93:
        text, how = break_text(draw, content.decode("utf-8", "replace"))
        return text.encode("utf-8", "surrogatepass"), how
    return break_bytes(draw, content)


def change_tree(draw: Draw, document: Any) -> str:
    """Change one value somewhere below ``document``, in place."""
    places = list(_places(document))
    if not places:
        return "as it is"
    home, key, path = draw.choice(places)
    how, old = draw.randrange(9), home[key]
    if how == 0:
        del home[key]
        return f"{path} gone"
    if how == 1 and isinstance(home, dict):
        home[odd_text(draw)[:3000]] = home.pop(key)
        return f"{path} renamed"
    if how == 2 and isinstance(home, dict):
        home[odd_text(draw)[:3000]] = odd_value(draw)
        return f"a key beside {path}"
    if how == 3:
        other, at, _ = draw.choice(places)
        if at in other if isinstance(other, dict) else at < len(other):
            home[key] = json.loads(json.dumps(other[at]))  # a copy: no tree in itself
            return f"{path} is another value"
    if how == 4 and isinstance(old, list):
        home[key] = old * draw.choice((0, 2, 500))
    elif how == 5 and isinstance(old, dict):
        old.update(
            {str(i): draw.choice((i, None, "x", {}, [])) for i in range(draw.choice((1, 99)))}
        )
    elif how < 7 and isinstance(old, int | float):
        home[key] = draw.choice((*_NUMBERS, -old, old + 1, old - 1, old * 1000, str(old), [old]))
    elif how < 7 and isinstance(old, str) and old:
        home[key] = draw.choice((old[:-1], old + "x", old.upper(), old * 2, [old], "../" + old, 7))
    else:
        home[key] = odd_value(draw)
    return f"{path} ({how})"


def _places(tree: Any, path: str = "", depth: int = 0) -> Any:
    """Every container, key and path below a tree, but for what lies very deep."""
    pairs = tree.items() if isinstance(tree, dict) else ()
    pairs = enumerate(tree) if isinstance(tree, list) else pairs
    for key, value in pairs:
        yield tree, key, f"{path}.{key}"[-60:]
        if depth < _DEEPEST:
            yield from _places(value, f"{path}.{key}"[-60:], depth + 1)


def break_lines(draw: Draw, content: bytes) -> tuple[bytes, str]:
    """JSON lines like ``content`` with something wrong, and what was done."""
    lines = content.splitlines(keepends=True)
    at, how = draw.randrange(len(lines) or 1), draw.randrange(10)
    if how < 6 and lines:
        line, what = break_json(draw, lines[at].rstrip(b"\n"))
        lines[at] = line + b"\n" * (draw.random() < 0.9)
        return b"".join(lines), f"line {at + 1} {what}"
    if how == 6 and lines:
        lines[at:at] = [lines[at]] * draw.choice((1, 5, 3000))
        return b"".join(lines), f"line {at + 1} repeated"
    if how == 7 and lines:
        lines.pop(at)
        draw.shuffle(lines)
        return b"".join(lines), "shuffled"
    return break_bytes(draw, content)
