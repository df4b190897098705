"""What is compared: lists of cells, in the order in which they matter."""

from __future__ import annotations

from cells import SEEDS, Cell, cells, untrained
from methods import (
    AMAQ,
    AMAQ_PAPER,
    AQ_SGD,
    AQ_SGD_16_WINDOWS_43_STEPS,
    AQ_SGD_16_WINDOWS_44_STEPS,
    AQ_SGD_26_STEPS,
    AQ_SGD_30_STEPS,
    EQUAL_WIDTHS,
    FIXED_CHANNEL,
    FIXED_TOKEN,
    GROUP_32,
    GROUP_64,
    GROUP_64_ZERO_POINT,
    GROUP_128,
    NONE,
    amaq,
    aq_sgd_in,
)
from tasks import GSM8K, SST2, TREC, WIKITEXT, WORDS, larger

MIDDLE, LATE, U_SHAPE, ALL_LAYERS = [12], [25], [5, 25], "all"
MANY_SEEDS = (17, 18, 19, 20, 21)


def _bars() -> list[Cell]:
    """In the order in which they matter: what the bars compare comes first, for all seeds."""
    found = [untrained(task) for task in (WIKITEXT, WORDS, TREC, SST2)]
    for seed in SEEDS:
        found += cells([WIKITEXT], [NONE, GROUP_64, AMAQ], [3], [seed])
        found += cells([WORDS, TREC, SST2], [FIXED_CHANNEL, AMAQ], [3], [seed])
    for seed in SEEDS:
        found += cells([WIKITEXT], [GROUP_64, AMAQ], [2, 4], [seed])
        # As many bytes as group-64 at 3 bits.
        found += cells([WIKITEXT], [AMAQ], [3.18], [seed])
    for seed in SEEDS:
        found += cells([WIKITEXT], [AQ_SGD, AQ_SGD_26_STEPS], [3], [seed])
        found += cells([WIKITEXT], [AQ_SGD, AQ_SGD_30_STEPS], [4], [seed])
        found += cells([WORDS, TREC, SST2], [NONE, GROUP_64], [3], [seed])
    for seed in SEEDS:
        found += cells([WORDS, TREC, SST2], [FIXED_TOKEN], [3], [seed])
        found += cells([WIKITEXT], [GROUP_64_ZERO_POINT], [3], [seed])
        found += cells([WIKITEXT], [FIXED_CHANNEL, FIXED_TOKEN, AMAQ_PAPER], [3], [seed])
        found += cells([WIKITEXT], [GROUP_32, GROUP_128], [3], [seed])
    for seed in SEEDS:
        found += cells([WIKITEXT], [EQUAL_WIDTHS], [3, 2], [seed])
        found += cells([TREC, SST2], [EQUAL_WIDTHS], [3], [seed])
        found += cells([WIKITEXT], [AQ_SGD], [2], [seed])
    for seed in SEEDS:
        found += cells([WIKITEXT], [AQ_SGD_16_WINDOWS_43_STEPS], [3], [seed])
        found += cells([WIKITEXT], [AQ_SGD_16_WINDOWS_44_STEPS], [4], [seed])
        found += cells([WORDS], [EQUAL_WIDTHS], [3], [seed])
        found += cells([TREC], [AMAQ, GROUP_64, EQUAL_WIDTHS], [2], [seed])
    return found


_NO_OUTLIERS = amaq("no-outlier-tokens", outlier_tokens=False)

_CUTS = [
    *cells([WIKITEXT], [GROUP_64, AMAQ, _NO_OUTLIERS], [3], SEEDS, MIDDLE),
    *cells([WIKITEXT], [GROUP_64, AMAQ, FIXED_CHANNEL], [3], SEEDS, LATE),
    *cells([WIKITEXT], [GROUP_64, AMAQ, FIXED_CHANNEL], [3], SEEDS, U_SHAPE),
    # What these cuts take to come within 2 % of no quantization.
    *(c for cuts in (LATE, U_SHAPE) for c in cells([WIKITEXT], [AMAQ], [3.5], SEEDS, cuts)),
    *cells([WIKITEXT], [GROUP_64, AMAQ], [4], SEEDS, ALL_LAYERS),
    # One seed: the same to the bit wherever the cut is.
    *(
        c
        for cuts in (LATE, U_SHAPE, ALL_LAYERS)
        for c in cells([WIKITEXT], [NONE], [3], [17], cuts)
    ),
]

_STABILITY = [
    untrained(WIKITEXT),
    untrained(TREC),
    *cells([WIKITEXT, TREC], [FIXED_CHANNEL, GROUP_64, AQ_SGD, AMAQ], [3, 2], MANY_SEEDS),
    *cells([WIKITEXT, TREC], [amaq("amaq-no-clip", clip=None)], [3, 2], MANY_SEEDS),
]

_GRADIENTS = [
    amaq(f"gradient-{bits}-bits", {"name": "group", "options": {"bits": bits}})
    for bits in (8, 4, 3)
]

_ABLATIONS = [
    NONE,
    AMAQ,
    AMAQ_PAPER,
    # Who gets what.
    amaq("learned", allocation="learned"),
    amaq("learned-lr-0.01", lr=0.01, allocation="learned"),
    amaq("learned-lr-1", lr=1.0, allocation="learned"),
    EQUAL_WIDTHS,
    amaq("memory-0", memory=0.0),
    amaq("memory-0.99", memory=0.99),
    amaq("min-bits-2", min_bits=2),
    # The schedule.
    amaq("fall-half", fall=0.5),
    amaq("learned-fall-half", fall=0.5, allocation="learned"),
    # The grid.
    _NO_OUTLIERS,
    amaq("center", center=True),
    amaq("center-no-outlier-tokens", center=True, outlier_tokens=False),
    amaq("no-spare-code", spare_code=False),
    amaq("no-clip", clip=None),
    amaq("clip-8-means", clip=8.0),
    amaq("scale-token", scale="token"),
    amaq("scale-channel-token", scale="channel-token"),
    # Gradients.
    *_GRADIENTS,
    amaq("gradient-reuses-widths", {"name": "fixed", "options": {"bits": "received"}}),
    amaq("gradient-amaq-6", {"name": "amaq", "options": {"target_bits": 6}}),
]

_ALL_TASKS = [WIKITEXT, WORDS, GSM8K, TREC, SST2]
# Of GSM8K, all answers of the test file that fit; of its 1,536 training rows 904 do.
TREC_LARGE, GSM8K_LARGE = larger(TREC), larger(GSM8K, num_test=375)
_LARGE_TASKS = [
    larger(WIKITEXT, num_test=384),
    larger(WORDS),
    GSM8K_LARGE,
    TREC_LARGE,
    larger(SST2),
]
_ALL_METHODS = [
    NONE,
    FIXED_TOKEN,
    FIXED_CHANNEL,
    GROUP_32,
    GROUP_64,
    GROUP_128,
    AQ_SGD,
    AMAQ,
    AMAQ_PAPER,
]

# AQ-SGD in as many bytes as AMAQ, by fewer steps (as methods.py says of WikiText-2).
_FEWER_STEPS = [
    *((TREC_LARGE, bits, steps) for bits, steps in ((3, 137), (4, 154))),
    *((GSM8K_LARGE, bits, steps) for bits, steps in ((3, 104), (4, 111))),
]


def _large() -> list[Cell]:
    """In the order in which they matter; seed by seed."""
    both = [TREC_LARGE, GSM8K_LARGE]
    found = [untrained(task) for task in both]
    for seed in SEEDS:
        found += cells(both, [NONE, AMAQ, GROUP_64, FIXED_CHANNEL, AQ_SGD], [3, 4], [seed])
        for task, bits, steps in _FEWER_STEPS:
            found += cells([task], [aq_sgd_in(steps)], [bits], [seed])
    found += cells(both, [EQUAL_WIDTHS], [3], SEEDS)
    found += cells(both, [NONE, AMAQ, GROUP_64, FIXED_CHANNEL, AQ_SGD], [3, 4], MANY_SEEDS[3:])
    return found


GRIDS: dict[str, list[Cell]] = {
    # About an hour on two cores.
    "small": [
        *map(untrained, (WIKITEXT, TREC, WORDS)),
        *cells([WIKITEXT], [NONE, FIXED_CHANNEL, GROUP_64, AQ_SGD, AMAQ], [3], SEEDS),
        *cells([TREC, WORDS], [NONE, FIXED_CHANNEL, GROUP_64, AMAQ], [3], SEEDS),
    ],
    "bars": _bars(),
    "ablations": list(cells([WIKITEXT], _ABLATIONS, [3], SEEDS[:2], scored_on="validation")),
    "gradients": list(
        cells(
            [TREC, WORDS, WIKITEXT],
            [AMAQ, *_GRADIENTS],
            [3],
            SEEDS[:2],
            scored_on="validation",
        )
    ),
    "stability": _STABILITY,
    "cuts": _CUTS,
    "gsm8k": [
        untrained(GSM8K),
        *cells([GSM8K], [NONE, FIXED_CHANNEL, GROUP_64, AQ_SGD, AMAQ], [3], SEEDS),
    ],
    "full": [*map(untrained, _ALL_TASKS), *cells(_ALL_TASKS, _ALL_METHODS, [4, 3, 2], MANY_SEEDS)],
    # Batches and runs that ask for a GPU; about eight minutes on an H100 with 16 cores.
    "large": _large(),
    "full-large": [
        *map(untrained, _LARGE_TASKS),
        *cells(_LARGE_TASKS, _ALL_METHODS, [4, 3, 2], MANY_SEEDS),
    ],
}
