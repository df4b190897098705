"""A few broken model folders in every run; the long form is the module's own command."""

from itertools import islice

from fuzz_models import cases
from fuzz_runner import run_all


def test_no_case_ends_in_a_bug_a_hang_or_much_memory(capfd):
    failed = run_all(cases(seed=2026), 15)
    assert failed == 0, capfd.readouterr().out


def test_the_same_seed_gives_the_same_cases():
    def drawn(seed: int) -> list[tuple[str, tuple[str, ...], dict[str, bytes]]]:
        return [(c.name, c.arguments, dict(c.files)) for c in islice(cases(seed), 30)]

    assert drawn(5) == drawn(5) != drawn(6)
