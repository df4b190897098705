"""The mutation tester: which faults it makes, and that it tells what tests notice."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import mutate  # noqa: E402
from mutants import mutants_of  # noqa: E402


def _after(source: str) -> list[str]:
    return [mutant.after for mutant in mutants_of("m.py", textwrap.dedent(source))]


@pytest.mark.parametrize(
    ("source", "after"),
    [
        ("r = a < b", ["r = a <= b"]),
        ("r = a != b", ["r = a == b", "r = a < b", "r = a > b"]),
        ("r = a == 'x'", ["r = a != 'x'"]),
        ("r = a.dtype != b", ["r = a.dtype == b"]),
        ("r = a is None", ["r = a is not None"]),
        ("r = a and b", ["r = a or b", "r = b", "r = a"]),
        ("r = not a", ["r = a"]),
        ("r = 7", ["r = 8", "r = 6"]),
        ("r = -a", ["r = a"]),
        ("r = True", ["r = False"]),
        ("r = a + b", ["r = a - b"]),
        ("r = a // b", ["r = a * b"]),
        ("r = min(a)", ["r = max(a)"]),
        ("r = f(a, n=b)", ["r = f(a)"]),
        ("r = [a for a in b if a]", ["r = [a for a in b]"]),
        ("r = a if b else c", ["r = c if b else a"]),
        ("r.a = b", ["pass"]),
        ("r -= a", ["pass", "r += a"]),
        ("for r in (a, b): pass", ["for r in (b,):", "for r in (a,):"]),
        ("f()", ["pass"]),
        ("with f(): g()", ["if True:", "pass"]),
        ("with f() as g: r = g", []),
        ("if a: r = b", ["if not a:"]),
        ("def f(a=1): return a", ["def f(a=2):", "def f(a=0):"]),
        ("@g\ndef f(): return a", ["def f():"]),
        ("@property\ndef f(): return a", []),
        ("def f():\n  if a:\n    return b\n  return c", ["if not a:", "pass"]),
        ("raise E('text', n=1)", ["pass"]),
        (
            "class C:\n  a: Annotated[int, Field(ge=3)]",
            [
                "a: Annotated[int, Field()]",
                "a: Annotated[int, Field(ge=4)]",
                "a: Annotated[int, Field(ge=2)]",
            ],
        ),
    ],
)
def test_the_faults(source, after):
    assert _after(source) == after


@pytest.mark.parametrize(
    "source",
    [
        "'''A docstring with 1 < 2.'''",
        "def f(a: int | None) -> int | None: return a",
        "__all__ = [1]",
        "assert a < 1, f(2)",
        "r = f'{a + 1}'",
        "r = E(hint=1, where=2, description=3)",
        "for r in zip(a, b, strict=True): r",
        "r: dict[str, int]",
        "import a",
        "log.warning(1)",
    ],
)
def test_what_no_test_should_notice_is_left_alone(source):
    assert _after(source) == []


def test_a_mutant_is_known_by_its_text_and_found_by_its_lines():
    (mutant,) = mutants_of("room/m.py", "x = 'a'\n\nif (\n    a\n    in b\n):\n    x = c\n")[1:]
    assert (mutant.line, mutant.last_line) == (4, 5)
    assert mutant.key == "room/m.py\n- if a in b:\n+ if a not in b:"


def test_every_accepted_mutant_has_a_reason_and_can_still_be_made():
    accepted = mutate.accepted_reasons()
    assert all(len(reason) > 10 for reason in accepted.values())
    paths = {key.partition("\n")[0] for key in accepted}
    made = {
        mutant.key
        for path in paths
        for mutant in mutants_of(path, (mutate.ROOT / path).read_text("utf-8"))
    }
    assert set(accepted) - made == set()


MODULE = """
    def larger(a, b):
        return a if a > b else b

    def countdown(number):
        while number > 0:
            number -= 1
        return number

    def idle():
        return 1
    """
TESTS = """
    from room.module import countdown, larger

    def test_larger():
        assert (larger(1, 2), larger(2, 1)) == (2, 2)

    def test_countdown():
        assert countdown(3) == 0
    """
PROGRAM = """
    import sys
    from pathlib import Path
    import hypothesis  # before the forks, as its import takes time
    from mutant_trials import baseline, trials
    from mutants import mutants_of

    root = Path(sys.argv[1])
    sys.path.insert(0, str(root))
    path = "room/module.py"
    quiet = baseline(root, ["test_module.py"], [path])
    mutants = mutants_of(path, (root / path).read_text())
    work = [(m, quiet.tests_of(m, 60), 1) for m in mutants]
    for mutant, verdict in trials(root, work, 1):
        print(mutant.after, "|", verdict.outcome, "|", verdict.by)
    """


def test_trials_tell_what_the_tests_notice_and_touch_no_file(tmp_path):
    (tmp_path / "room").mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    module = tmp_path / "room" / "module.py"
    module.write_text(textwrap.dedent(MODULE))
    (tmp_path / "test_module.py").write_text(textwrap.dedent(TESTS))
    before = module.read_bytes()
    program = [sys.executable, "-B", "-c", textwrap.dedent(PROGRAM), str(tmp_path)]
    ran = subprocess.run(program, cwd=SCRIPTS, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = [line.split(" | ") for line in ran.stdout.splitlines()]
    larger, countdown = "test_module.py::test_larger", "test_module.py::test_countdown"
    assert [tuple(part.strip() for part in line) for line in found] == [
        ("return b if a > b else a", "killed", larger),
        ("return a if a >= b else b", "survived", ""),
        ("while number >= 0:", "killed", countdown),
        ("while number > 1:", "killed", countdown),
        ("while number > -1:", "killed", countdown),
        ("pass", "timed out", "the process ended"),
        ("number += 1", "timed out", "the process ended"),
        ("number -= 2", "killed", countdown),
        ("number -= 0", "timed out", "the process ended"),
        ("return 2", "survived", "no test runs this line"),
        ("return 0", "survived", "no test runs this line"),
    ]
    assert module.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"room", "pytest.ini", "test_module.py"}
