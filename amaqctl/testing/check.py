"""Run the clauses over one quantizer. Needs no pytest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from amaqctl import registry
from amaqctl.quantizer import Quantizer, Role, load_quantizer
from amaqctl.registry import Offer
from amaqctl.testing.clauses import CLAUSES, Clause
from amaqctl.testing.finding import BrokenPromiseError, Finding, TooSlowError, described
from amaqctl.testing.subject import Subject
from amaqctl.testing.time_limit import Clock, time_limit

_CLAUSE_SECONDS = 120.0  # the slowest takes a few, on a machine that does nothing else


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
        options: as in a profile; None for every set that the quantizer declares.
        roles: directions to look at; None for activations, and gradients where it learns nothing.

    Raises:
        PluginError: nobody offers it, two do, or it cannot be imported.
    """
    subjects = subjects_of(name, None if options is None else [options], roles)
    return [done.finding for done in check_clauses(subjects) if done.finding]


def check_clauses(
    subjects: Iterable[Subject],
    clauses: Sequence[Clause] = CLAUSES,
    limit_seconds: float = _CLAUSE_SECONDS,
) -> Iterator[CheckedClause]:
    """Run ``clauses`` on each subject, one by one; the first broken case of a clause ends it.

    A subject that is too slow, or takes longer than ``limit_seconds`` over a clause, is not
    looked at any further: no command should be held up by what it looks at.
    """
    for subject in subjects:
        for clause in clauses:
            done, ran_out = _checked(clause, subject, limit_seconds)
            yield done
            if ran_out or isinstance(done.cause, TooSlowError):
                break


def _checked(clause: Clause, subject: Subject, limit_seconds: float) -> tuple[CheckedClause, bool]:
    """The clause, and whether its time ran out."""
    finding: Finding | None = None
    cause: Exception | None = None
    clock = Clock()
    try:
        with time_limit(limit_seconds) as clock:
            clause.check(subject)
    except BrokenPromiseError as broken:
        finding, cause = _finding(clause, subject, broken), broken
    except Exception as error:
        unexpected = BrokenPromiseError("no error", described(error))
        finding, cause = _finding(clause, subject, unexpected), error
    return CheckedClause(clause, subject, finding, cause), clock.ran_out


def subjects_of(
    name: str,
    option_sets: Sequence[Mapping[str, Any]] | None = None,
    roles: Sequence[Role] | None = None,
) -> list[Subject]:
    """What a registered quantizer is checked as: each set of options in each role.

    Args:
        option_sets: each as in a profile; None for those that the quantizer declares.

    Raises:
        PluginError: nobody offers it, two do, it cannot be imported, it is no quantizer, or what
            it declares are no sets of options.
    """
    cls = load_quantizer(name)
    if option_sets is None:
        option_sets = _declared_by(cls, registry.find(registry.QUANTIZERS, name))
    return [
        Subject(name, cls, options, role)
        for options in option_sets
        for role in (roles or _roles(Subject(name, cls, options, "activation")))
    ]


def _declared_by(cls: type[Quantizer], offer: Offer) -> Sequence[Mapping[str, Any]]:
    declared = cls.option_sets
    fits = isinstance(declared, Sequence) and all(isinstance(o, Mapping) for o in declared)
    if not fits or not declared:
        raise offer.fault("declares option_sets that are no sequence of mappings")
    return declared


def _roles(subject: Subject) -> tuple[Role, ...]:
    """Who learns from the gradient cannot quantize it: nothing would train it there."""
    try:
        learns = bool(subject.sender().param_groups())
    except (Exception, ValidationError):  # the clauses tell what is wrong
        learns = False
    return ("activation",) if learns else ("activation", "gradient")


def _finding(clause: Clause, subject: Subject, broken: BrokenPromiseError) -> Finding:
    cases = ", ".join(broken.cases)
    return Finding(clause.name, str(subject), cases, broken.expected, broken.got)
