"""Reading documentation pages: sections, tables and fenced blocks of Markdown."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def section(page: str, heading: str) -> str:
    """Text below a heading, up to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", page, re.M | re.S)
    assert found, f"the page has no heading '{heading}'"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Cells of the tables in ``text``, header and rule lines left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = {i for i, row in enumerate(cells) if set("".join(row)) <= {"-", ":"}}
    return [row for i, row in enumerate(cells) if i not in rules and i + 1 not in rules]


def fence(text: str, language: str) -> str:
    """Content of the first fenced block in ``language``."""
    found = re.search(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
    assert found, f"no {language} block"
    return found[1]
