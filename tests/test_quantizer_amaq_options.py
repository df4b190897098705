"""`amaq`: options that depend on each other."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from amaqctl.quantizers.amaq import AmaqQuantizer


def test_paper_mode_brings_its_defaults_and_keeps_what_is_said():
    paper = AmaqQuantizer.Config(mode="paper")
    assert (paper.allocation, paper.center, paper.min_bits, paper.beta, paper.target_bits) == (
        "learned",
        False,
        3,
        1.0,
        None,
    )
    said = AmaqQuantizer.Config(mode="paper", min_bits=0, beta=0.5, center=True, max_bits=6)
    assert (said.min_bits, said.beta, said.center, said.max_bits) == (0, 0.5, True, 6)
    for config in (paper, said, AmaqQuantizer.Config(axis="position")):
        assert AmaqQuantizer.Config(**json.loads(config.model_dump_json())) == config
    assert AmaqQuantizer.Config(scale="token").min_bits == 2
    assert AmaqQuantizer.Config(axis="position").min_bits == 2
    assert AmaqQuantizer.Config(max_bits=6).start_bits == 6.0
    assert AmaqQuantizer.Config(max_bits=6.0).start_bits == 6.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "paper", "target_bits": 4}, "target_bits belongs to mode: budget"),
        ({"mode": "paper", "allocation": "tracked"}, "allocation: tracked belongs to"),
        ({"beta": 1.0}, "needs target_bits and no beta"),
        ({"target_bits": None}, "needs target_bits and no beta"),
        ({"min_bits": 4, "max_bits": 4}, "min_bits must be below max_bits"),
        ({"target_bits": 7, "max_bits": 6}, "target_bits must lie between"),
        ({"start_bits": 1, "min_bits": 2}, "start_bits must lie between"),
        ({"min_bits": -1}, "min_bits"),
        ({"max_bits": 0, "min_bits": 0}, "greater than or equal to 1"),
        ({"fall": -0.1}, "greater than or equal to 0"),
        ({"fall": 1.1}, "less than or equal to 1"),
        ({"alpha": 1e-4}, "greater than or equal to 0.001"),
        ({"alpha": 1e4}, "less than or equal to 1000"),
        ({"scale": "token", "min_bits": 0}, "widths of 0 and 1 need"),
        ({"axis": "position", "min_bits": 1}, "widths of 0 and 1 need"),
        ({"scale": "token", "clip": 2.0}, "clip limits the range of a channel"),
        ({"scale": "channel-token", "clip": "search"}, "clip: search needs axis: channel"),
        ({"axis": "position", "clip": "search"}, "clip: search needs axis: channel"),
        ({"alpha": 0}, "alpha"),
        ({"initial_share": 1.0}, "initial_share"),
        ({"clip": float("inf")}, "clip"),
        ({"memory": 1.0}, "memory"),
        ({"memory": -0.1}, "memory"),
    ],
    ids=str,
)
def test_combinations_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        AmaqQuantizer.Config(**options)


@pytest.mark.parametrize("options", [None, [], "mode"])
def test_options_that_are_no_mapping_are_refused(options):
    with pytest.raises(ValidationError, match="valid dictionary"):
        AmaqQuantizer.Config.model_validate(options)
