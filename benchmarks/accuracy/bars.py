"""The bars that AMAQ is held to, from records: what was asked, what was measured, met or not.

Runs are paired by seed. No comparison is judged on fewer seeds than `SEEDS`, and a run of AMAQ that
failed fails its bar. What is nearer to its bar than two standard errors of the paired differences
is judged by its mean, but called within noise. The last two bars look at every run there is.

A run *collapsed* when on the same examples its loss is no better than the untrained model's, or its
accuracy or exact match not by two standard errors. Lossless training does not depend on the place
of the cut, to the bit (`test_model_split.py`), so one row of `none` serves all cuts.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from cells import EARLY, SEEDS, Cell, cells, untrained
from grids import GRIDS, LATE, MIDDLE, U_SHAPE
from methods import (
    AMAQ,
    AQ_SGD,
    AQ_SGD_16_WINDOWS_43_STEPS,
    AQ_SGD_16_WINDOWS_44_STEPS,
    AQ_SGD_26_STEPS,
    AQ_SGD_30_STEPS,
    FIXED_CHANNEL,
    FIXED_TOKEN,
    GROUP_64,
    GROUP_64_ZERO_POINT,
    NONE,
    Method,
)
from records import Record, current
from tasks import SST2, TREC, WIKITEXT, WORDS, TaskCase

SAME_BYTES = 3.18
"""Target of AMAQ that makes its messages as large as those of groups of 64 at 3 bits."""

_AT_CUT = {
    json.dumps(MIDDLE): ", after block 12",
    json.dumps(LATE): ", after block 25",
    json.dumps(U_SHAPE): ", U shape",
}
_UNTRAINED = {cell.task.name: untrained(cell.task).key for grid in GRIDS.values() for cell in grid}


@dataclass(frozen=True)
class Bar:
    """One claim and its measurement.

    Args:
        claim: in words.
        asked: the number of the claim.
        measured: the same number of this grid; None where nothing was measured.
        is_met: whether it is on the right side; None where that cannot be said yet.
        is_clear: whether it is there by more than two standard errors.
        seeds: pairs of runs compared, or runs looked at.
        bytes_ratio: whole-run bytes of AMAQ over those of the rival; None where not compared.
    """

    claim: str
    asked: str
    measured: str | None
    is_met: bool | None
    seeds: int
    bytes_ratio: float | None = None
    is_clear: bool = True

    def row(self) -> str:
        """A line of a Markdown table."""
        verdict = {True: "yes", False: "**no**", None: "–"}[self.is_met]
        if self.is_met is not None and not self.is_clear:
            verdict += ", within noise"
        ratio = "–" if self.bytes_ratio is None else f"{self.bytes_ratio:.3f}"
        cells = (self.claim, self.asked, self.measured or "–", verdict, str(self.seeds), ratio)
        return "| " + " | ".join(cells) + " |"


class Measured:
    """Looks up test cells in the records."""

    def __init__(self, found: dict[str, Record]) -> None:
        self._found = found

    def compared(
        self,
        task: TaskCase,
        rival: Method,
        bits: float,
        own_bits: float | None,
        measure: Callable[[Record, Record], float],
        judge: Callable[[float, float], tuple[str, bool, bool]],
        claim: str,
        asked: str,
        cuts: list[int] = EARLY,
    ) -> Bar:
        """A bar over the seeds that both AMAQ and its rival have.

        Args:
            measure: the difference of a pair of runs, AMAQ's first.
            judge: from mean and standard error of the differences: words, met, clear.
        """
        ours = self._by_seed(task, AMAQ, own_bits or bits, cuts)
        is_same_cut = cuts == EARLY or rival != NONE
        theirs = self._by_seed(task, rival, bits, cuts if is_same_cut else EARLY)
        seeds = [seed for seed in SEEDS if seed in ours and seed in theirs]
        if any("failed" in ours[seed] for seed in seeds):
            return Bar(claim, asked, "AMAQ failed", False, len(seeds))
        seeds = [seed for seed in seeds if "failed" not in theirs[seed]]
        if not seeds:
            return Bar(claim, asked, None, None, 0)
        pair = [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]
        differences = [measure(*records) for records in zip(*pair, strict=True)]
        error = statistics.stdev(differences) / len(seeds) ** 0.5 if len(seeds) > 1 else math.inf
        measured, is_met, is_clear = judge(statistics.mean(differences), error)
        sent = [sum(record["wire_bytes"] for record in records) for records in pair]
        verdict = is_met if len(seeds) == len(SEEDS) else None
        ratio = sent[0] / sent[1] if is_same_cut else None
        return Bar(claim, asked, measured, verdict, len(seeds), ratio, is_clear)

    def perplexity(
        self,
        rival: Method,
        bits: int,
        most: float,
        boundary: str = "quantized",
        own_bits: float | None = None,
        cuts: list[int] = EARLY,
    ) -> Bar:
        """Perplexity of AMAQ over that of a rival on WikiText-2."""

        def measure(ours: Record, theirs: Record) -> float:
            losses = [record["scores"][boundary]["loss"] for record in (ours, theirs)]
            return float(losses[0] - losses[1])

        def judge(mean: float, error: float) -> tuple[str, bool, bool]:
            ratio, is_clear = math.exp(mean), abs(mean - math.log(most)) > 2 * error
            return f"{ratio:.3f}{_plus_minus(ratio * error, 3)}", ratio <= most, is_clear

        how = "through the cut" if boundary == "quantized" else "clean"
        width = f"{bits} bits" if own_bits is None else f"target {own_bits} for {bits} bits"
        where = _AT_CUT.get(json.dumps(cuts), "")
        claim = f"perplexity amaq / {rival.name}, {width}, {how}{where}"
        return self.compared(
            WIKITEXT, rival, bits, own_bits, measure, judge, claim, f"≤ {most}", cuts
        )

    def points(self, task: TaskCase, rival: Method, least: float) -> Bar:
        """Points of accuracy or exact match through the cut above a rival at 3 bits."""

        def measure(ours: Record, theirs: Record) -> float:
            rates = [record["scores"]["quantized"][task.score] for record in (ours, theirs)]
            return 100 * float(rates[0] - rates[1])

        def judge(mean: float, error: float) -> tuple[str, bool, bool]:
            is_clear = abs(mean - least) > 2 * error
            return f"{mean:+.1f}{_plus_minus(error, 1)}", mean >= least, is_clear

        claim = f"{task.name}: points above {rival.name}, 3 bits"
        return self.compared(task, rival, 3, None, measure, judge, claim, f"≥ {least}")

    def _by_seed(
        self, task: TaskCase, method: Method, bits: float, cuts: list[int]
    ) -> dict[int, Record]:
        wanted = cells([task], [method], [bits], SEEDS, cuts)
        return {c.seed: self._found[c.key] for c in wanted if c.key in self._found}


def _plus_minus(error: float, digits: int) -> str:
    return f" ± {error:.{digits}f}" if math.isfinite(error) else ""


def _runs(found: dict[str, Record], bits: float | None) -> list[Record]:
    """All test runs of AMAQ with its defaults, in any task and with any cut."""
    wanted: dict[str, Cell] = {c.key: c for grid in GRIDS.values() for c in grid}
    return [
        found[key]
        for key, cell in wanted.items()
        if key in found
        and cell.method == AMAQ
        and cell.scored_on == "test"
        and bits in (None, cell.bits)
    ]


def lost(found: dict[str, Record]) -> Bar:
    """Runs of AMAQ at 3 bits that diverged, or collapsed through the cut."""
    claim = "diverged or collapsed at 3 bits, all tasks and cuts"
    verdicts = [diverged(r) or collapsed(r, "quantized", found) for r in _runs(found, 3)]
    known = [verdict for verdict in verdicts if verdict is not None]
    number = str(sum(known)) if known else None
    return Bar(claim, "0", number, not sum(known) if known else None, len(known))


def diverged(record: Record) -> bool:
    """Whether a run ended because a value was not finite."""
    return "failed" in record


def collapsed(record: Record, boundary: str, found: dict[str, Record]) -> bool | None:
    """Whether a run ended no better than the untrained model; None where that was not scored."""
    before = found.get(_UNTRAINED[record["task"]])
    if before is None:
        return None
    now, then = record["scores"][boundary], before["scores"]["clean"]
    for rate in ("accuracy", "exact_match"):
        if rate in now:
            error = math.sqrt(then[rate] * (1 - then[rate]) / before["num_scored"])
            return bool(now[rate] <= then[rate] + 2 * error or now["loss"] >= then["loss"])
    return bool(now["loss"] >= then["loss"])


def budget(found: dict[str, Record]) -> Bar:
    """Largest distance of the mean width sent last from the target."""
    runs = [record for record in _runs(found, None) if "failed" not in record]
    distances = [
        abs(sum(width * n for width, n in enumerate(counts)) / sum(counts) - record["bits"])
        for record in runs
        for counts in record["widths"].values()
    ]
    claim = "mean width at the end off the target, bits (at every step: a property test)"
    if not distances:
        return Bar(claim, "≤ 0.02", None, None, 0)
    return Bar(claim, "≤ 0.02", f"{max(distances):.4f}", max(distances) <= 0.02, len(runs))


def bars(records: dict[str, Record]) -> list[Bar]:
    """Every bar, from the records of present settings."""
    found = current((cell for grid in GRIDS.values() for cell in grid), records)
    look = Measured(found)
    return [
        look.perplexity(GROUP_64, 4, 1.0),
        look.perplexity(AQ_SGD, 4, 1.0),
        look.perplexity(AQ_SGD, 4, 1.0, "clean"),
        look.perplexity(AQ_SGD_30_STEPS, 4, 1.0, "clean"),
        look.perplexity(AQ_SGD_16_WINDOWS_44_STEPS, 4, 1.0, "clean"),
        look.perplexity(GROUP_64, 3, 0.95),
        look.perplexity(GROUP_64, 3, 0.95, own_bits=SAME_BYTES),
        look.perplexity(GROUP_64_ZERO_POINT, 3, 0.95),
        look.perplexity(AQ_SGD, 3, 0.98),
        look.perplexity(AQ_SGD, 3, 0.98, "clean"),
        look.perplexity(AQ_SGD_26_STEPS, 3, 0.98, "clean"),
        look.perplexity(AQ_SGD_16_WINDOWS_43_STEPS, 3, 0.98, "clean"),
        look.perplexity(GROUP_64, 2, 0.80),
        look.perplexity(NONE, 3, 1.02),
        look.perplexity(NONE, 3, 1.02, own_bits=SAME_BYTES),
        look.perplexity(NONE, 2, 1.10),
        *(
            look.perplexity(rival, 3, most, cuts=cuts)
            for cuts in (MIDDLE, LATE, U_SHAPE)
            for rival, most in ((GROUP_64, 0.95), (NONE, 1.02))
        ),
        *(
            look.points(task, rival, least)
            for task, least in ((WORDS, 2.5), (TREC, 1.3), (SST2, 1.3))
            for rival in (FIXED_CHANNEL, FIXED_TOKEN, GROUP_64)
        ),
        lost(found),
        budget(found),
    ]
