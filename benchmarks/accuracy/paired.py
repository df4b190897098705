"""Ablations, paired by seed: each row against the same method with its defaults.

Runs of one seed share data, order and initial adapter, so the difference of two of them says more
than their means do; ± is the standard error of that difference over seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from cells import Cell
from methods import AMAQ
from records import Record, current
from tables import scores, spread

_HEADER = (
    "changed",
    "seeds",
    "loss through the cut, minus the default's, nats",
    "score through the cut",
    "bits over the run",
    "gradient bits",
    "MiB sent",
)


def against_default(cells: Iterable[Cell], found: dict[str, Record]) -> str:
    """A table a task, a row a method; a task where the default has no record is left out."""
    cells = list(cells)
    found = current(cells, found)
    by_task: dict[str, dict[str, list[Record]]] = {}
    for cell in cells:
        if cell.key in found:
            rows = by_task.setdefault(cell.task.name, {})
            rows.setdefault(cell.method.name, []).append(found[cell.key])
    tables = {task: _table(rows) for task, rows in by_task.items()}
    return "\n\n".join(f"**{task}**:\n\n{table}" for task, table in tables.items() if table)


def _table(rows: dict[str, list[Record]]) -> str:
    defaults = {
        record["seed"]: _loss(record)
        for record in rows.get(AMAQ.name, [])
        if "failed" not in record
    }
    if not defaults:
        return ""
    lines = ["| " + " | ".join(_HEADER) + " |", "|" + " --- |" * len(_HEADER)]
    for method, records in rows.items():
        whole = [r for r in records if "failed" not in r and r["seed"] in defaults]
        num_diverged = sum("failed" in record for record in records)
        if not whole and not num_diverged:
            continue
        line = [method, str(len(whole)) + (f", {num_diverged} diverged" if num_diverged else "")]
        if whole:
            differences = [_loss(record) - defaults[record["seed"]] for record in whole]
            line.append("0" if method == AMAQ.name else _signed(differences))
            line.append(_score(whole))
            for key in ("activation_bits_over_run", "gradient_bits_over_run"):
                line.append(f"{statistics.mean(record[key] for record in whole):.2f}")
            line.append(f"{statistics.mean(r['wire_bytes'] for r in whole) / 2**20:.2f}")
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines)


def _score(records: list[Record]) -> str:
    """Exact match or accuracy where the task has one, else perplexity."""
    for score, digits in (("exact_match", 3), ("accuracy", 3), ("perplexity", 2)):
        if score in records[0]["scores"]["quantized"]:
            return spread(scores(records, "quantized", score), digits)
    raise AssertionError("every task has a perplexity")


def _loss(record: Record) -> float:
    return float(record["scores"]["quantized"]["loss"])


def _signed(differences: list[float]) -> str:
    mean = f"{statistics.mean(differences):+.4f}"
    if len(differences) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(differences) / len(differences) ** 0.5:.4f}"
