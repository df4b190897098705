"""Render the results of a grid as Markdown tables and, with matplotlib, the Pareto plot.

    python benchmarks/accuracy/render.py --out DIR [--plot FILE.png]

Rows are methods, ordered as in the grid. Two columns of bits, both 8 x bytes / values as sent,
metadata included: in the last step and over the whole run. Seeds are folded into mean ± sd.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from grids import GRIDS, Cell

SCORES = {"accuracy": "accuracy", "exact_match": "exact match", "loss": "loss"}


def results(out: Path, cells: list[Cell]) -> dict[tuple[str, int, str], list[dict[str, Any]]]:
    """Results by (task, bits, method), one entry a seed; missing cells are left out."""
    found = defaultdict(list)
    for cell in cells:
        path = out / f"{cell.key}.json"
        if path.exists():
            found[cell.task.name, cell.bits, cell.method.name].append(json.loads(path.read_text()))
    return found


def spread(values: list[float], digits: int) -> str:
    """Mean ± sample standard deviation, or the one value."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def row(method: str, runs: list[dict[str, Any]], scores: list[str]) -> list[str]:
    """One line of a table."""
    failed = [r for r in runs if not r["train"]["ok"]]
    if failed:
        return [method, f"{len(failed)} of {len(runs)} failed: {failed[0]['train']['error']['id']}"]
    trained = [r["train"]["data"] for r in runs]
    cells = [method]
    for score in scores:
        for boundary in ("quantized", "clean"):
            values = [r["eval"]["data"]["metrics"][boundary][score] for r in runs]
            cells.append(spread(values, 3))
    for key in ("activation_bits_at_end", "activation_bits_over_run", "gradient_bits_over_run"):
        cells.append(spread([t[key] for t in trained], 2))
    cells.append(spread([t["wire_bytes"] / 2**20 for t in trained], 2))
    return cells


def tables(out: Path, cells: list[Cell]) -> str:
    """A Markdown table for each task and width."""
    found = results(out, cells)
    lines = []
    for task, bits in dict.fromkeys((t, b) for t, b, m in found if m != "none"):
        group = {m: r for (t, b, m), r in found.items() if t == task and b in (bits, 16)}
        metrics = next(iter(group.values()))[0]["eval"]["data"]["metrics"]["clean"]
        scores = [name for name in SCORES if name in metrics]
        header = ["method"]
        for name in scores:
            header += [f"{SCORES[name]}, through the cut", f"{SCORES[name]}, clean"]
        header += ["bits at the end", "bits over the run", "gradient bits", "MiB sent"]
        lines += [f"### {task}, {bits} bits", "", " | ".join(["", *header, ""]).strip()]
        lines.append("|" + " --- |" * len(header))
        for method, runs in group.items():
            lines.append("| " + " | ".join(row(method, runs, scores)) + " |")
        lines.append("")
    return "\n".join(lines)


def plot(out: Path, cells: list[Cell], file: Path) -> None:
    """Perplexity through the cut against whole-run bits a value, a panel a task."""
    from matplotlib import pyplot

    found = results(out, cells)
    tasks = list(dict.fromkeys(task for task, _, _ in found))
    figure, axes = pyplot.subplots(1, len(tasks), figsize=(5 * len(tasks), 4), squeeze=False)
    for panel, task in zip(axes[0], tasks, strict=True):
        for method in dict.fromkeys(m for t, _, m in found if t == task):
            points = []
            for (t, _, m), runs in found.items():
                done = [r for r in runs if r["train"]["ok"]]
                if (t, m) == (task, method) and done:
                    bits = [r["train"]["data"]["activation_bits_over_run"] for r in done]
                    losses = [r["eval"]["data"]["metrics"]["quantized"]["loss"] for r in done]
                    points.append((statistics.mean(bits), math.exp(statistics.mean(losses))))
            panel.plot(*zip(*sorted(points), strict=True), marker="o", label=method)
        panel.set(title=task, xlabel="bits a value over the run", ylabel="perplexity")
        panel.set_yscale("log")
        panel.legend()
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where `run.py` kept results")
    parser.add_argument("--grid", choices=sorted(GRIDS), default="three-bits")
    parser.add_argument("--plot", type=Path, help="draw the Pareto plot into this file")
    arguments = parser.parse_args()
    print(tables(arguments.out, GRIDS[arguments.grid]))
    if arguments.plot:
        plot(arguments.out, GRIDS[arguments.grid], arguments.plot)


if __name__ == "__main__":
    main()
