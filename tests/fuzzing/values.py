"""Values, text, rows and bytes that programs have stumbled over, drawn from a seeded generator."""

from __future__ import annotations

import random
from typing import Any

Draw = random.Random

_TEXTS = [
    "", " ", "\0", "\ufeff", "\u2028", "\x85", "é", "𝕏", "\ud800", "\udfff", "\x1b[31m", "\x7f",
    "~", "null", "true", "no", "1e400", ".nan", "-.inf", "0x1F", "1_000", "2026-11-21", "*a", "&a",
    "!!python/object:os.system", "- a", "? a", "a: b", "{", "[", "%YAML 1.1", "---", "#", "|", ">",
    "'", '"', "\\", "../../etc/passwd", "/dev/zero", "/", ".", "~root", "$HOME", "tiny", "amaq",
    "</s>", "<|eos|>", "<|pad|>", "<|eos|><|eos|>", "{prompt}", "{text}{text}", "all", "none",
    "none ", "Amaq", "q;a;t;label", "target_bit", "a\nb", "a\r\nb", "\t", "d.jsonl", "p.yaml",
    "constant", "float16", "bfloat16", "loopback", "text", "classification", "python-docs",
]  # fmt: skip
_NUMBERS: list[Any] = [
    0, 1, -1, 2, 3, 7, 8, 9, 16, 64, 1000, 2**31, 2**32, 2**63 - 1, 2**63, 10**30, -(2**63) - 1,
    0.0, -0.0, 0.5, 0.999999, 1.0, 1.5, 1e-320, 5e-324, 1e-8, 1e8, 1e38, 1e39, 1e300, 1.7e308,
    float("inf"), float("-inf"), float("nan"),
]  # fmt: skip


def odd_text(draw: Draw) -> str:
    """A text: one of the odd ones, a few of them, a very long one, or noise."""
    how = draw.randrange(8)
    if how < 4:
        return draw.choice(_TEXTS)
    if how < 6:
        return "".join(draw.choices(_TEXTS, k=draw.randrange(1, 6)))
    if how == 6:
        return draw.choice(["x", "[", "é", "\\", "a ", "a.", '"', "1"]) * draw.choice((200, 70_000))
    return "".join(chr(draw.randrange(1, 0x3000)) for _ in range(draw.randrange(1, 40)))


def odd_value(draw: Draw, depth: int = 0) -> Any:
    """Anything that JSON can write, deep and wide things included."""
    how = draw.randrange(12 if depth < 3 else 8)
    if how < 3:
        return draw.choice(_NUMBERS)
    if how < 6:
        return odd_text(draw)
    if how < 8:
        return draw.choice((None, True, False, [], {}, [[]], "", 10 ** draw.choice((20, 4000))))
    if how == 8:
        return [odd_value(draw, depth + 1) for _ in range(draw.randrange(4))]
    if how == 9:
        return {odd_text(draw): odd_value(draw, depth + 1) for _ in range(draw.randrange(4))}
    if how == 10:
        return nested(draw.choice((5, 19, 25, 90, 110, 400)), draw.random() < 0.5)
    return [draw.choice((0, "x", None, [], 1.5))] * draw.choice((2, 100, 9000))


def nested(depth: int, in_mappings: bool) -> Any:
    """Lists, or mappings, in each other."""
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if in_mappings else [value]
    return value


def break_row(draw: Draw, rows: list[Any]) -> None:
    """Change one of ``rows`` in place: its keys, its values, or what it is."""
    index = draw.randrange(len(rows))
    row, how = rows[index], draw.randrange(7)
    if not isinstance(row, dict) or how == 0:
        rows[index] = odd_value(draw)
    elif how == 1 and row:
        row.pop(draw.choice(list(row)))
    elif how == 2:
        row[odd_text(draw)] = odd_value(draw)
    elif how == 3:
        rows[index:index] = [dict(row)] * draw.choice((1, 5, 300))
    elif how == 4 and len(rows) > 1:
        rows.pop(index)
    elif row:
        row[draw.choice(list(row))] = odd_text(draw) if how == 5 else odd_value(draw)


def break_text(draw: Draw, text: str) -> tuple[str, str]:
    """``text`` with one thing inserted, cut, repeated or replaced, and what was done."""
    at = draw.randrange(len(text) + 1)
    how = draw.choice(("insert", "cut", "repeat", "replace", "line", "bomb", "tabs", "case"))
    end = min(len(text), at + draw.choice((1, 1, 3, 20, 200)))
    if how == "insert":
        return text[:at] + odd_text(draw) + text[at:], how
    if how == "cut":
        return text[:at] + text[end:], how
    if how == "repeat":
        times = draw.choice((2, 2, 50, 20_000 // max(1, end - at)))
        return text[:at] + text[at:end] * times + text[end:], how
    if how == "replace":
        return text[:at] + odd_text(draw) + text[end:], how
    if how == "line":
        lines = text.split("\n")
        lines.insert(draw.randrange(len(lines)), draw.choice(lines))
        return "\n".join(lines), how
    if how == "bomb":
        bomb = draw.choice(("*a,", "&a 1,", "!!x 1,", "[", "{a: ", "- ", "? ", "k: 1\n", ".nan,"))
        return text[:at] + bomb * draw.choice((3, 500, 15_000)) + text[at:], how
    if how == "tabs":
        return text.replace(" ", "\t", draw.choice((1, 3, -1))), how
    return text.upper(), how


def break_bytes(draw: Draw, content: bytes) -> tuple[bytes, str]:
    """``content``, seldom in another encoding, with a byte changed, or cut, and what was done."""
    how = draw.randrange(24)
    if how == 0:
        return b"\xef\xbb\xbf" + content, "with a byte order mark"
    if how == 1:
        encoding = draw.choice(("utf-16", "utf-16-le", "utf-32", "utf-7"))
        return content.decode("utf-8", "replace").encode(encoding, "replace"), encoding
    if how == 2 and content:
        at = draw.randrange(len(content))
        return content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :], "a byte"
    if how == 3:
        return content[: draw.randrange(len(content) + 1)], "cut"
    if how == 4:
        return content.replace(b"\n", draw.choice((b"\r\n", b"\r", b"\n\n"))), "line ends"
    if how == 5:
        return draw.randbytes(draw.choice((1, 100, 5000))), "noise"
    return content, ""
