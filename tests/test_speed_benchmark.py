"""The speed benchmark: at a tiny shape the record has every row, and the page takes its tables."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
METHODS = (
    "none",
    "fixed 4 bits",
    "group 64, 4 bits",
    "aq-sgd 4 bits",
    "amaq 4 bits",
    "amaq 3 bits",
)
PEERS = (
    "bitsandbytes 8 bits, blockwise",
    "bitsandbytes nf4, block 64",
    "torchao uint4, group 64",
    "torch quantize_per_channel, 8 bits a token",
    "numpy packbits, 4 bits a channel",
    "zstd level 1 on bfloat16",
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The record of a quick run, and the page with its tables."""
    folder = tmp_path_factory.mktemp("speed")
    records, page = folder / "records.json", folder / "performance.md"
    shutil.copy(ROOT / "docs" / "performance.md", page)
    program = [sys.executable, str(ROOT / "benchmarks" / "speed" / "run.py"), "--quick"]
    options = ["--only", "codec", "peers", "--records", str(records), "--page", str(page)]
    done = subprocess.run([*program, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(records.read_text(encoding="utf-8")), page.read_text(encoding="utf-8")


def _figures(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _figures(inner)
    elif isinstance(value, list):
        yield from value
    elif isinstance(value, float):
        yield value


def _check_figures(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        figures = list(_figures(row))
        assert len(figures) > 20, row
        assert all(math.isfinite(v) and v > 0 for v in figures), row


def _kinds(part: dict[str, Any]) -> set[str]:
    return set(part) & {"native", "torch"}


def test_every_method_and_dtype_has_its_row(measured: tuple[dict[str, Any], str]) -> None:
    part = measured[0]["codec"]
    assert "torch" in _kinds(part)
    for kind in _kinds(part):
        rows = part[kind]["rows"]
        named = [(row["method"], row["dtype"], row["shape"]) for row in rows]
        dtypes = ("float32", "bfloat16")
        assert named == [(m, d, "2x16x32") for m in METHODS for d in dtypes]
        for row in rows:
            verbs = {"encode", "decode"} | ({"observe"} if "amaq" in row["method"] else set())
            assert verbs <= row.keys()
            assert row["figure"] == ("mean" if "amaq" in row["method"] else "median")
        _check_figures(rows)


def test_every_peer_has_its_row_or_a_reason(measured: tuple[dict[str, Any], str]) -> None:
    part = measured[0]["peers"]
    for kind in _kinds(part):
        rows, skipped = part[kind]["rows"], part[kind]["skipped"]
        named = [row["method"] for row in rows]
        assert named == ["fixed 4 bits", "amaq 4 bits", *(p for p in PEERS if p not in skipped)]
        assert all(skipped.values())
        assert {"torch quantize_per_channel, 8 bits a token", PEERS[4]}.isdisjoint(skipped)
        for row in rows[2:]:
            for over in ("over_fixed", "over_amaq"):
                assert row[over].keys() == {"encode", "decode"}
        _check_figures(rows)


def test_the_page_shows_what_was_measured(measured: tuple[dict[str, Any], str]) -> None:
    record, page = measured
    row = record["codec"]["torch"]["rows"][0]
    assert f"| {row['method']} | {row['dtype']} |" in page
    assert "| numpy packbits, 4 bits a channel | 2x16x32 |" in page
    assert record["codec"]["environment"]["versions"]["torch"] in page


def test_the_kept_page_is_that_of_the_kept_record(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    shutil.copy(ROOT / "docs" / "performance.md", page)
    program = [sys.executable, str(ROOT / "benchmarks" / "speed" / "run.py"), "--only"]
    subprocess.run([*program, "--page", str(page)], check=True, capture_output=True)
    assert page.read_text(encoding="utf-8") == (ROOT / "docs" / "performance.md").read_text(
        encoding="utf-8"
    )
