"""Run the clauses over one quantizer. Needs no pytest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from amaqctl.quantizer import Role, load_quantizer
from amaqctl.testing.clauses import CLAUSES, Clause
from amaqctl.testing.finding import BrokenPromiseError, Finding, described
from amaqctl.testing.subject import Subject


@dataclass(frozen=True)
class CheckedClause:
    """One clause that was run on one subject, and the error behind a finding."""

    clause: Clause
    subject: Subject
    finding: Finding | None
    cause: Exception | None = None


def check_quantizer(
    name: str, options: Mapping[str, Any] | None = None, roles: Sequence[Role] | None = None
) -> list[Finding]:
    """Every promise that a registered quantizer breaks; empty when it keeps the contract.

    Args:
        name: its registered name.
        options: as in a profile; None for the defaults.
        roles: directions to look at; None for activations, and gradients where it learns nothing.

    Raises:
        PluginError: nobody offers it, two do, or it cannot be imported.
    """
    subjects = subjects_of(name, [options or {}], roles)
    return [done.finding for done in check_clauses(subjects) if done.finding]


def check_clauses(
    subjects: Iterable[Subject], clauses: Sequence[Clause] = CLAUSES
) -> Iterator[CheckedClause]:
    """Run ``clauses`` on each subject, one by one; the first broken case of a clause ends it."""
    for subject in subjects:
        for clause in clauses:
            try:
                clause.check(subject)
            except BrokenPromiseError as broken:
                finding = _finding(clause, subject, broken)
                yield CheckedClause(clause, subject, finding, broken)
            except Exception as error:
                unexpected = BrokenPromiseError("no error", described(error))
                yield CheckedClause(clause, subject, _finding(clause, subject, unexpected), error)
            else:
                yield CheckedClause(clause, subject, None)


def subjects_of(
    name: str,
    option_sets: Sequence[Mapping[str, Any]] = ({},),
    roles: Sequence[Role] | None = None,
) -> list[Subject]:
    """What a registered quantizer is checked as: each set of options in each role.

    Raises:
        PluginError: nobody offers it, two do, it cannot be imported, or it is no quantizer.
    """
    cls = load_quantizer(name)
    return [
        Subject(name, cls, options, role)
        for options in option_sets
        for role in (roles or _roles(Subject(name, cls, options, "activation")))
    ]


def _roles(subject: Subject) -> tuple[Role, ...]:
    """Who learns from the gradient cannot quantize it: nothing would train it there."""
    try:
        learns = bool(subject.build().param_groups())
    except (Exception, ValidationError):  # the clauses tell what is wrong
        learns = False
    return ("activation",) if learns else ("activation", "gradient")


def _finding(clause: Clause, subject: Subject, broken: BrokenPromiseError) -> Finding:
    cases = ", ".join(broken.cases)
    return Finding(clause.name, str(subject), cases, broken.expected, broken.got)
