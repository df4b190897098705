"""A few hostile inputs of every kind in every run; the long form is `scripts/fuzz.py`."""

import random
from itertools import islice

import pytest
from fuzzing import models
from fuzzing.campaign import KINDS, Ending, cases_of, run_kind, summary
from fuzzing.runner import Case, Check, warm_up

NUM_CASES = {"inputs": 20, "models": 12, "runs": 20, "traces": 20, "messages": 250}
NUM_CASES |= {"sessions": 2500, "streams": 60}


@pytest.mark.parametrize("kind", KINDS)
def test_no_case_ends_in_a_bug_a_hang_or_much_memory(kind, tmp_path):
    warm_up()
    endings = list(run_kind(kind, 2026, NUM_CASES[kind], keep=tmp_path))
    assert [ending for ending in endings if ending.fault] == []
    assert len(endings) == NUM_CASES[kind]
    # What is refused at once everywhere tests nothing behind the door.
    assert len({ending.end for ending in endings}) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_cases(kind):
    def drawn(seed: int) -> list[object]:
        return [_shown(case) for case in islice(cases_of(kind, seed), 20)]

    assert drawn(5) == drawn(5) != drawn(6)


def _shown(case: Case | Check) -> object:
    return (case.name, case.arguments, case.files) if isinstance(case, Case) else case.name


def test_a_case_that_fails_is_kept_with_its_files_and_the_commands_that_run_it_again(
    tmp_path, monkeypatch
):
    made = Case("pipe ü\ud800", ("runs", "a b"), {"d/x": b"1"}, prepare=lambda: None)
    monkeypatch.setattr("fuzzing.campaign.cases_of", lambda kind, seed: iter([made]))
    monkeypatch.setattr("fuzzing.runner.SECONDS", -1.0)
    (ending,) = run_kind("runs", 3, 1, keep=tmp_path)
    assert ending.fault is not None
    assert (tmp_path / "runs-3-0" / "files" / "d" / "x").read_bytes() == b"1"
    lines = (tmp_path / "runs-3-0" / "case.txt").read_text().splitlines()
    assert lines[2:] == [
        "scripts/fuzz.py --kinds runs --seed 3 --only 0",
        "cd files && amaqctl runs 'a b'",
    ]


def test_lists_too_deep_to_read_again_are_left_alone():
    deep = b"[" * 100_000 + b"]" * 100_000
    files = {f"m/{name}": deep for name in models._JSON}
    assert models._json_tree(random.Random(1), files).endswith("as it is")
    assert set(files.values()) == {deep}


def test_a_check_fails_by_what_it_raises(monkeypatch):
    checks = [Check("good", lambda: "read"), Check("bad", lambda: [][1])]
    monkeypatch.setattr("fuzzing.campaign.cases_of", lambda kind, seed: iter(checks))
    endings = list(run_kind("messages", 0, 2))
    assert [(e.end, e.fault) for e in endings] == [
        ("read", None),
        ("failed", "IndexError: list index out of range"),
    ]


def test_summary():
    endings = [
        Ending(0, "a", "0", 1.5, 20.0, None, ""),
        Ending(1, "b", "4", 0.5, 90.0, None, ""),
        Ending(2, "c", "-9", 2.0, 10.0, "hang", ""),
    ]
    assert summary("runs", endings) == (
        "runs: 3 cases, 1 failed; ends 0: 1, 4: 1, -9: 1; slowest 2.0 s, largest growth 90 MiB"
    )


def test_files_that_an_earlier_change_took_away_are_left_alone():
    for change in (models._json_tree, models._json_text):
        for seed in range(20):
            change(random.Random(seed), {})
