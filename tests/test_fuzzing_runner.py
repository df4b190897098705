"""The runner of hostile input: what it sees of a case, and what it calls a fault."""

import os
import time

import pytest
from fuzzing import runner
from fuzzing.runner import Case, Outcome, run_case


def test_a_case_runs_in_a_folder_of_its_own_with_its_files():
    here = os.getcwd()
    case = Case("shown", ("profile", "show", "a/p.yaml"), {"a/p.yaml": b"task: {name: text}\n"})
    outcome = run_case(case)
    assert outcome.exit_code == 3
    assert b"a/p.yaml:1:1: amaqctl: required key is missing" in outcome.output
    assert outcome.fault() is None
    assert os.getcwd() == here
    assert not os.path.exists("a")


def test_preparation_runs_in_the_folder_before_the_program():
    case = Case("pipe", ("--version",), prepare=lambda: os.mkfifo("p.yaml"))
    assert run_case(case).exit_code == 0
    assert not os.path.exists("p.yaml")


def test_a_case_that_does_not_end_is_ended_and_is_a_fault(monkeypatch):
    monkeypatch.setattr(runner, "WAITING_SECONDS", 0.5)
    outcome = run_case(Case("asleep", ("--version",), prepare=lambda: time.sleep(60)))
    assert outcome.exit_code == -9
    assert outcome.fault() == f"hang: {outcome.waited_seconds:.0f} s of waiting"


def test_a_case_that_works_without_end_is_ended_and_is_a_fault(monkeypatch):
    monkeypatch.setattr(runner, "SECONDS", 0.5)
    outcome = run_case(Case("busy", ("--version",), prepare=lambda: sum(iter(int, 1))))
    assert outcome.exit_code == -9
    assert outcome.fault() == f"hang: {outcome.seconds:.0f} s"


def test_memory_is_counted_from_where_the_case_begins():
    held = []
    case = Case("large", ("--version",), prepare=lambda: held.append(b"x" * (450 << 20)))
    outcome = run_case(case)
    assert outcome.fault() == f"memory: {outcome.grown_mebibytes:.0f} MiB"
    assert 430 < outcome.grown_mebibytes < 600


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (Outcome(0, 1, 1, b"done"), None),
        (Outcome(4, 1, 1, b"error: d.jsonl:1: not JSON"), None),
        (Outcome(1, 1, 1, b""), "exit code 1"),
        (Outcome(-11, 1, 1, b""), "exit code -11"),
        (Outcome(0, 1, 1, b"Traceback (most recent call last):"), "a traceback, or a bug of ours"),
        (Outcome(4, 1, 1, b"error: internal error: X"), "a traceback, or a bug of ours"),
    ],
)
def test_faults(outcome, fault):
    assert outcome.fault() == fault
