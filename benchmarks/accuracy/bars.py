"""The bars that AMAQ is held to, from records: what was asked, what was measured, met or not."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from grids import SEEDS, cells
from methods import AMAQ, AQ_SGD, FIXED_CHANNEL, FIXED_TOKEN, GROUP_64, NONE, Method
from records import Record
from tables import geometric_mean, scores
from tasks import SST2, TREC, WIKITEXT, WORDS, TaskCase

SAME_BYTES = 3.18
"""Target of AMAQ that makes its messages as large as those of groups of 64 at 3 bits."""


@dataclass(frozen=True)
class Bar:
    """One claim and its measurement.

    Args:
        claim: in words.
        asked: the number of the claim.
        measured: the same number of this grid; None while seeds are missing.
        is_met: whether it is on the right side.
        seeds: how many.
    """

    claim: str
    asked: str
    measured: str | None
    is_met: bool
    seeds: int

    def row(self) -> str:
        """A line of a Markdown table."""
        verdict = "–" if self.measured is None else "yes" if self.is_met else "**no**"
        return (
            f"| {self.claim} | {self.asked} | {self.measured or '–'} | {verdict} | {self.seeds} |"
        )


class Measured:
    """Looks up cells of the grid `bars` in the records."""

    def __init__(self, found: dict[str, Record]) -> None:
        self._found = found

    def records(self, task: TaskCase, method: Method, bits: float) -> list[Record]:
        """Those of all seeds that are there, in the order of seeds."""
        wanted = cells([task], [method], [bits], SEEDS)
        return [self._found[cell.key] for cell in wanted if cell.key in self._found]

    def perplexity_ratio(
        self,
        rival: Method,
        bits: int,
        most: float,
        boundary: str = "quantized",
        own_bits: float | None = None,
    ) -> Bar:
        """Perplexity of AMAQ over that of a rival on WikiText-2."""
        ours = self.records(WIKITEXT, AMAQ, own_bits or bits)
        theirs = self.records(WIKITEXT, rival, bits)
        how = "through the cut" if boundary == "quantized" else "clean"
        asked = f"{bits} bits" if own_bits is None else f"target {own_bits} for {bits} bits"
        claim = f"perplexity amaq / {rival.name}, {asked}, {how}"
        seeds = min(len(ours), len(theirs))
        if not seeds:
            return Bar(claim, f"≤ {most}", None, False, 0)
        means = [geometric_mean(scores(r, boundary, "perplexity")) for r in (ours, theirs)]
        ratio = means[0] / means[1]
        return Bar(claim, f"≤ {most}", f"{ratio:.3f}", ratio <= most, seeds)

    def points_above(
        self, task: TaskCase, rival: Method, least: float, boundary: str = "quantized"
    ) -> Bar:
        """Points of accuracy or exact match above a rival at 3 bits."""
        ours, theirs = (self.records(task, m, 3) for m in (AMAQ, rival))
        how = "through the cut" if boundary == "quantized" else "clean"
        claim = f"{task.name}: points above {rival.name}, 3 bits, {how}"
        seeds = min(len(ours), len(theirs))
        if not seeds:
            return Bar(claim, f"≥ {least}", None, False, 0)
        means = [statistics.mean(scores(r, boundary, task.score)) for r in (ours, theirs)]
        points = 100 * (means[0] - means[1])
        return Bar(claim, f"≥ {least}", f"{points:+.1f}", points >= least, seeds)

    def diverged(self) -> Bar:
        """Runs of AMAQ at 3 bits that failed, in any task."""
        runs = [r for t in (WIKITEXT, WORDS, TREC, SST2) for r in self.records(t, AMAQ, 3)]
        number = sum("failed" in record for record in runs)
        return Bar("diverged runs at 3 bits, all tasks", "0", str(number), not number, len(runs))


def bars(found: dict[str, Record]) -> list[Bar]:
    """Every bar of the project's issue on accuracy."""
    look = Measured(found)
    return [
        look.perplexity_ratio(GROUP_64, 4, 1.0),
        look.perplexity_ratio(AQ_SGD, 4, 1.0),
        look.perplexity_ratio(AQ_SGD, 4, 1.0, "clean"),
        look.perplexity_ratio(GROUP_64, 3, 0.95),
        look.perplexity_ratio(GROUP_64, 3, 0.95, own_bits=SAME_BYTES),
        look.perplexity_ratio(AQ_SGD, 3, 0.98),
        look.perplexity_ratio(AQ_SGD, 3, 0.98, "clean"),
        look.perplexity_ratio(GROUP_64, 2, 0.80),
        look.perplexity_ratio(NONE, 3, 1.02),
        look.perplexity_ratio(NONE, 3, 1.02, own_bits=SAME_BYTES),
        look.perplexity_ratio(NONE, 2, 1.10),
        *(
            look.points_above(task, rival, least)
            for task, least in ((WORDS, 2.5), (TREC, 1.3), (SST2, 1.3))
            for rival in (FIXED_CHANNEL, FIXED_TOKEN)
        ),
        look.diverged(),
    ]
