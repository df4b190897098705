#!/usr/bin/env python
"""Rewrites the generated parts of the pages in docs/; `--screens` also runs their commands.

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end of NAME -->``.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import docs_blocks
import docs_commands
import docs_profiles
import docs_reference

DOCS = Path(__file__).resolve().parents[1] / "docs"

PARTS = {
    "command-line.md": {"commands": docs_commands.reference},
    "quantizer-reference.md": {"reference": docs_reference.reference},
    "profiles.md": {"sections": docs_profiles.sections, "options": docs_profiles.options},
}


def regenerated(page: str) -> str:
    """The page ``docs/<page>`` with every generated part as the code would have it."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for name, make in PARTS[page].items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end of {name} -->"
        pattern = re.compile(rf"{re.escape(begin)}\n.*?{re.escape(end)}", re.S)
        assert len(pattern.findall(text)) == 1, f"{page} needs one part {name}"
        part = f"{begin}\n\n{make()}\n\n{end}"
        text = pattern.sub(part.replace("\\", r"\\"), text)
    return text


def _renew(path: Path, text: str) -> None:
    if text != path.read_text(encoding="utf-8"):
        path.write_text(text, encoding="utf-8")
        print(f"rewrote {path.name}")


def main() -> None:
    """Rewrite what is stale, and say what."""
    for page in PARTS:
        _renew(DOCS / page, regenerated(page))
    if "--screens" in sys.argv[1:]:
        for path in sorted(DOCS.glob("*.md")):
            text = path.read_text(encoding="utf-8")
            if docs_blocks.has_blocks(text):
                with tempfile.TemporaryDirectory() as folder:
                    _renew(path, docs_blocks.walk(text, Path(folder), lambda page, real: None))


if __name__ == "__main__":
    main()
