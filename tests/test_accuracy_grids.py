"""The accuracy benchmark: cells, data parts, what is skipped, and what the tables say."""

from __future__ import annotations

import fcntl
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "accuracy"))

import bars
import grids
import paired
import records
import render
import run
import stability
import tables
import tasks
from cells import SEEDS, Cell, untrained
from methods import AMAQ, AMAQ_PAPER, AQ_SGD, AQ_SGD_26_STEPS, GROUP_64, NONE, UNTRAINED, amaq

from amaqctl.build import resolve_parts
from amaqctl.profile import load_profile
from amaqctl.tasks.word_problems import problems

ALL_CELLS = {cell.key: cell for cells in grids.GRIDS.values() for cell in cells}


def cell(method: Any = AMAQ, bits: float | None = 3, seed: int = 17) -> Cell:
    return Cell(tasks.WIKITEXT, method, bits, seed)


def record(of: Cell, perplexity: float, **more: Any) -> records.Record:
    scores = {"loss": math.log(perplexity), "perplexity": perplexity}
    trained = {
        "data": {
            "loss_before": 4.0,
            "activation_bits_at_end": 3.08,
            "activation_bits_over_run": 3.1,
            "gradient_bits_over_run": 6.26,
            "wire_bytes": 2**20,
            "wire_values": 10,
            "seconds": 1.0,
            "peak_memory_mib": 1,
        }
    }
    scored = {"data": {"num_examples": 96, "metrics": {"quantized": scores, "clean": scores}}}
    return {**records.record_of(of, {"commit": "abc"}, trained, scored, {}), **more}


def test_no_grid_has_a_cell_twice_and_keys_tell_cells_apart() -> None:
    for name, cells in grids.GRIDS.items():
        keys = [c.key for c in cells]
        assert len(keys) == len(set(keys)), name
    by_key: dict[str, str] = {}
    for c in (c for cells in grids.GRIDS.values() for c in cells):
        assert by_key.setdefault(c.key, c.digest()) == c.digest()


@pytest.mark.parametrize("key", sorted(k for k in ALL_CELLS if "seed17" in k))
def test_every_cell_is_a_profile_whose_options_are_legal(key: str, tmp_path: Path) -> None:
    changes = [f"{k}={json.dumps(v)}" for k, v in ALL_CELLS[key].changes(tmp_path).items()]
    parts = resolve_parts(load_profile("quickstart", changes))
    assert parts.activation.name == ALL_CELLS[key].method.quantizer


def test_parts_of_a_set_have_no_row_in_common(tmp_path: Path) -> None:
    rows = [
        json.dumps({"text": f"t{n}\u2028more", "label": "a"}, ensure_ascii=False)
        for n in range(400)
    ]
    (tmp_path / "trec").mkdir()
    (tmp_path / "trec" / "train.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "trec" / "test.jsonl").write_text("test row\n")
    prepared = tmp_path / "prepared"
    tasks.TREC.prepare(tmp_path, prepared)
    train, validation, test = (
        (prepared / f"trec.{part}.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        for part in ("train", "validation", "test")
    )
    assert (len(train), len(validation), test) == (144, 256, ["test row"])
    assert sorted(train + validation) == sorted(rows)


def test_no_word_problem_is_trained_on_and_tested() -> None:
    options = tasks.WORDS.part_options
    num_before = options["validation"]["num_validation"]
    made = [p.question for p in islice(problems(0), num_before + tasks.WORDS.options["num_train"])]
    test = {p.question for p in islice(problems(1), options["test"]["num_validation"])}
    assert len(test) == tasks.WORDS.num_test == 400
    assert not test & set(made[num_before:])


def test_a_text_is_cut_where_an_article_begins(tmp_path: Path) -> None:
    article = "\n = Title {n} = \n\nSome words.\n\n = = Section = = \n\nMore of article {n}.\n"
    whole = "".join(article.format(n=n) for n in range(50))
    (tmp_path / "wikitext2").mkdir()
    (tmp_path / "wikitext2" / "train.txt").write_text(whole)
    (tmp_path / "wikitext2" / "test.txt").write_text("t")
    tasks.WIKITEXT.prepare(tmp_path, tmp_path / "p")
    train, validation = (
        (tmp_path / "p" / f"wikitext2.{part}.txt").read_text() for part in ("train", "validation")
    )
    assert train + validation == whole
    assert validation.startswith("\n = Title 4")
    assert 0.05 < len(validation) / len(whole) < 0.12


def test_training_never_sees_the_test_part() -> None:
    place = Path("data")
    for c in ALL_CELLS.values():
        trained_on = json.dumps(c.changes(place)["task"])
        (scored_on,) = (v for k, v in c.scoring(place).items() if "validation" in k)
        if c.task.source:
            assert "test" not in trained_on
            assert c.scored_on in scored_on


def test_a_cell_with_a_record_of_its_settings_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    done, open_ = cell(), cell(seed=18)
    records.append(path, record(done, 40.0))
    assert records.missing([done, open_, open_], records.load(path)) == [open_]
    records.append(path, record(done, 40.0, digest="of other settings"))
    assert records.missing([done], records.load(path)) == [done]


def test_half_a_line_is_named_and_nothing_is_glued_to_it(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    records.append(path, record(cell(), 40.0))
    whole = path.read_text()
    path.write_text(whole + whole[:100])
    with pytest.raises(SystemExit, match="line 2 is not a record"):
        records.load(path)


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    arguments = ["--data", tmp_path, "--work", tmp_path, "--records", tmp_path / "r.jsonl"]
    with (tmp_path / "lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = subprocess.run(
            [sys.executable, run.__file__, *map(str, arguments), "--grid", "gsm8k"],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert second.returncode == 1
    assert "another run.py works here" in second.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


def test_a_row_folds_seeds() -> None:
    cells = [cell(seed=17), cell(seed=18), cell(NONE, None)]
    found = {c.key: record(c, p) for c, p in zip(cells, (40.0, 42.0, 39.0), strict=True)}
    text = tables.tables(cells, found)
    assert "**wikitext2**, cut after block 5:" in text
    assert "| 3 | amaq | 2 | 41.00 ± 1.41 | 41.00 ± 1.41 | 3.08 | 3.10 | 6.26 | 1.00 |" in text
    assert "| own | none | 1 | 39.00 | 39.00 |" in text


def test_a_run_that_failed_stays_in_the_table() -> None:
    cells = [cell(seed=17), cell(seed=18)]
    trained = {"error": {"id": "DIVERGED"}}
    found = {
        cells[0].key: record(cells[0], 40.0),
        cells[1].key: records.failure_of(cells[1], {"commit": "abc"}, trained),
    }
    assert "| 3 | amaq | 2, 1 diverged | 40.00 | 40.00 |" in tables.tables(cells, found)


def bars_of(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, bars.Bar]:
    """Every bar, of AMAQ's and group's perplexities on WikiText-2 at 3 bits, seed by seed."""
    found = {}
    for method, perplexities in ((AMAQ, ours), (GROUP_64, theirs)):
        for seed, perplexity in zip(SEEDS, perplexities, strict=True):
            c = cell(method, 3, seed)
            found[c.key] = record(c, perplexity)
    return {bar.claim: bar for bar in bars.bars(found)}


def test_a_bar_within_two_standard_errors_says_so() -> None:
    claim = "perplexity amaq / group-64, 3 bits, through the cut"
    bar = bars_of((40.0, 40.0, 40.0), (42.0, 42.5, 43.0))[claim]
    differences = [math.log(40 / theirs) for theirs in (42.0, 42.5, 43.0)]
    ratio = math.exp(sum(differences) / 3)
    error = ratio * statistics.stdev(differences) / math.sqrt(3)
    assert bar.measured == f"{ratio:.3f} ± {error:.3f}" == "0.941 ± 0.006"
    assert "| yes, within noise |" in bar.row()
    assert "| **no**, within noise |" in bars_of((40.0,) * 3, (41.0, 42.0, 43.0))[claim].row()
    assert "| **no** |" in bars_of((40.0,) * 3, (40.0,) * 3)[claim].row()


def test_a_bar_compares_means_of_all_seeds() -> None:
    by_claim = bars_of((40.0, 36.0, 32.0), (50.0, 45.0, 40.0))
    bar = by_claim["perplexity amaq / group-64, 3 bits, through the cut"]
    assert (bar.measured, bar.is_met, bar.seeds, bar.bytes_ratio) == ("0.800 ± 0.000", True, 3, 1.0)
    assert bar.row().endswith("| 0.800 ± 0.000 | yes | 3 | 1.000 |")
    assert by_claim["perplexity amaq / group-64, 2 bits, through the cut"].measured is None
    assert by_claim["diverged or collapsed at 3 bits, all tasks and cuts"].is_met is None


def test_a_bar_says_nothing_of_too_few_seeds_and_no_to_a_lost_run() -> None:
    claim = "perplexity amaq / group-64, 3 bits, through the cut"

    def judged(*failed_seeds: int, seeds: tuple[int, ...] = SEEDS) -> bars.Bar:
        found = {}
        for seed in seeds:
            ours, theirs = cell(seed=seed), cell(GROUP_64, 3, seed)
            found[theirs.key] = record(theirs, 50.0)
            found[ours.key] = record(ours, 40.0)
            if seed in failed_seeds:
                trained = {"error": {"id": "DIVERGED"}}
                found[ours.key] = records.failure_of(ours, {"commit": "abc"}, trained)
        return {bar.claim: bar for bar in bars.bars(found)}[claim]

    assert judged().is_met is True
    assert judged(seeds=(17, 19)).is_met is None
    assert judged(18).is_met is False
    assert all(bar.is_met is None for bar in bars.bars({}))


def lost_bar(*perplexities: float, at_first: float = 50.0, failed: bool = False) -> str:
    before = untrained(tasks.WIKITEXT)
    found = {before.key: record(before, at_first)}
    for seed, perplexity in zip(SEEDS, perplexities, strict=False):
        found[cell(seed=seed).key] = record(cell(seed=seed), perplexity)
    if failed:
        c = cell(seed=SEEDS[-1])
        found[c.key] = records.failure_of(c, {"commit": "abc"}, {"error": {"id": "DIVERGED"}})
    return next(bar.row() for bar in bars.bars(found) if "collapsed" in bar.claim)


def test_a_run_no_better_than_the_untrained_model_collapsed() -> None:
    claim = "| diverged or collapsed at 3 bits, all tasks and cuts | 0 |"
    assert lost_bar(40.0, 49.9) == f"{claim} 0 | yes | 2 | – |"
    assert lost_bar(40.0, 50.0) == f"{claim} 1 | **no** | 2 | – |"
    assert lost_bar(40.0, failed=True) == f"{claim} 1 | **no** | 2 | – |"


@pytest.mark.parametrize("accuracy, is_lost", [(0.46, True), (0.48, False)])
def test_an_accuracy_within_two_standard_errors_of_the_untrained_collapsed(
    accuracy: float, is_lost: bool
) -> None:
    """At 0.4 of 250 questions a standard error is 0.031, so the limit is 0.462."""

    def scored(of: Cell, loss: float, accuracy: float) -> records.Record:
        scores = {"loss": loss, "accuracy": accuracy}
        return record(of, 1.0, num_scored=250, scores={"quantized": scores, "clean": scores})

    before, after = untrained(tasks.TREC), Cell(tasks.TREC, AMAQ, 3, 17)
    found = {before.key: scored(before, 9.7, 0.4)}
    assert bars.collapsed(scored(after, 1.0, accuracy), "quantized", found) is is_lost
    assert bars.collapsed(scored(after, 9.8, 0.9), "quantized", found) is True


def test_a_bar_at_another_cut_is_held_against_lossless_training_at_the_first() -> None:
    found = {}
    for seed in SEEDS:
        ours = replace(cell(seed=seed), cuts=json.dumps(grids.LATE))
        found[ours.key] = record(ours, 41.0)
        found[cell(NONE, None, seed).key] = record(cell(NONE, None, seed), 40.0)
    by_claim = {bar.claim: bar for bar in bars.bars(found)}
    bar = by_claim["perplexity amaq / none, 3 bits, through the cut, after block 25"]
    assert bar.row().endswith("| 1.025 ± 0.000 | **no** | 3 | – |")
    assert by_claim["perplexity amaq / none, 3 bits, through the cut"].is_met is None


def test_runs_scored_on_validation_enter_no_bar() -> None:
    cells = [c for c in grids.GRIDS["ablations"] if c.method == AMAQ]
    found = {c.key: record(c, 90.0) for c in [untrained(tasks.WIKITEXT), *cells]}
    assert {bar.seeds for bar in bars.bars(found)} == {0}


def test_lost_runs_are_counted_by_method() -> None:
    before = untrained(tasks.WIKITEXT)
    members = [before, *(cell(GROUP_64, 3, seed) for seed in SEEDS), cell()]
    perplexities = (50.0, 48.0, 50.5, 47.0, 40.0)
    found = {c.key: record(c, p) for c, p in zip(members, perplexities, strict=True)}
    gone = members[3]
    found[gone.key] = records.failure_of(gone, {"commit": "a"}, {"error": {"id": "DIVERGED"}})
    assert stability.lost_runs(members, found).splitlines()[2:] == [
        "| wikitext2 | 3 | amaq | 1 | 0 | 0 | 0 | 40.00 | 40.00 |",
        "| wikitext2 | 3 | group-64 | 3 | 1 | 1 | 1 | 50.50 | 50.50 |",
    ]
    del found[before.key]  # what is not known is not counted as fine
    assert "| group-64 | 3 | 1 | – | – |" in stability.lost_runs(members, found)
    assert stability.lost_runs(members, {}) == ""


def test_an_ablation_is_paired_by_seed() -> None:
    changed = amaq("no-center", center=False)
    of_both = {17: (40.0, 44.0), 18: (30.0, 36.0)}
    members = [cell(m, 3, seed) for seed in of_both for m in (AMAQ, changed)]
    values = [value for pair in of_both.values() for value in pair]
    found = {c.key: record(c, v) for c, v in zip(members, values, strict=True)}
    differences = math.log(44 / 40), math.log(36 / 30)
    mean, error = sum(differences) / 2, abs(differences[0] - differences[1]) / 2
    assert paired.against_default(members, found).splitlines()[4:] == [
        "| amaq | 2 | 0 | 35.00 ± 7.07 | 3.10 | 6.26 | 1.00 |",
        f"| no-center | 2 | {mean:+.4f} ± {error:.4f} | 40.00 ± 5.66 | 3.10 | 6.26 | 1.00 |",
    ]
    assert paired.against_default(members[1::2], found) == ""
    failed = records.failure_of(members[0], {"commit": "a"}, {"error": {"id": "DIVERGED"}})
    found[members[0].key] = failed  # no default to hold the other run of that seed against
    lines = paired.against_default(members, found).splitlines()
    assert lines[0] == "**wikitext2**:"
    assert lines[4].startswith("| amaq | 1, 1 diverged | 0 | 30.00 |")
    assert lines[5].startswith(f"| no-center | 1 | {differences[1]:+.4f} | 36.00 |")


def test_a_method_may_change_the_number_of_steps() -> None:
    steps = [
        cell(method).changes(Path("data"))["train.max_steps"]
        for method in (AQ_SGD, AQ_SGD_26_STEPS, UNTRAINED)
    ]
    assert steps == [48, 26, 1]


def test_a_record_of_other_settings_is_not_shown() -> None:
    found = {cell().key: record(cell(), 40.0, digest="of other settings")}
    assert tables.tables([cell()], found) == ""


def test_a_page_keeps_what_is_not_generated() -> None:
    page = "Before.\n<!-- records: verdicts -->\nold\n<!-- end of verdicts -->\nAfter.\n"
    text = render.renewed(page, {})
    assert text.startswith("Before.\n<!-- records: verdicts -->\n\n| bar | asked")
    assert text.endswith("<!-- end of verdicts -->\nAfter.\n")
    assert "old" not in text
    assert render.renewed(text, {}) == text


def test_widths_are_read_beside_what_quantizers_report(tmp_path: Path) -> None:
    (tmp_path / "bits").mkdir()
    place = "link0.activation"
    members = {
        f"{place}.channel": np.array([2, 3, 3], dtype=np.uint8),
        f"{place}.channel.range": np.array([0.5, 1.5, 2.5], dtype=np.float32),
        "link0.gradient.tensor": np.array([4], dtype=np.uint8),
    }
    np.savez(tmp_path / "bits" / "final.npz", **members)
    assert run._widths(tmp_path) == {f"{place}.channel": [0, 0, 1, 2, 0, 0, 0, 0, 0]}


def test_paper_mode_has_no_width_of_ours() -> None:
    assert AMAQ_PAPER.quantizers(None)["activation"] == {
        "name": "amaq",
        "options": {"mode": "paper"},
    }


def test_the_page_of_results_shows_the_records_that_are_kept() -> None:
    page = (Path(__file__).parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    assert render.renewed(page, records.load(records.KEPT)) == page
