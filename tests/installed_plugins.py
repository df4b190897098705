"""Distributions as pip leaves them, on a folder of the path: a module and a dist-info folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def install(
    site: Path, distribution: str, files: Mapping[str, str], points: Mapping[str, Mapping[str, str]]
) -> None:
    """Put a distribution of version 1.2 into ``site``.

    Args:
        files: name to text, such as ``acme_task.py``.
        points: entry points, by group and name.
    """
    for name, text in files.items():
        (site / name).write_text(text, encoding="utf-8")
    info = site / f"{distribution.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    lines = [
        line
        for group, named in points.items()
        for line in (f"[{group}]", *(f"{name} = {target}" for name, target in named.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
