"""`amaqctl plugins`: which quantizers are installed, the options of one, and the contract.

Listing imports nothing, so it survives whatever a plugin does. Only asking for a quantizer by
name, or for a check, runs its code.
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from amaqctl import registry
from amaqctl.cli.console import render
from amaqctl.cli.console.session import Json, Quiet, Session, Traceback, command
from amaqctl.cli.quantizer_text import name_and_options
from amaqctl.errors import AmaqError, CheckError, PluginError, UsageError

_SCHEMA = "amaqctl.plugins/1"


def plugins(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME[:KEY=VALUE,…]",
            help="Show the options of this quantizer; with --check, check it with these options.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Run the contract; exit 8 if a promise is broken.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """List the installed quantizers without importing them, show one's options, or check them.

    With --check a NAME alone is checked with every set of options that it declares for that, and
    without a NAME every installed quantizer with its default options.
    """
    with command(_SCHEMA, json=json, quiet=quiet, traceback=traceback) as session:
        if check:
            _check(session, name)
        elif name is None:
            _list(session)
        else:
            _show(session, *name_and_options(name, "plugins"))


def _list(session: Session) -> None:
    listed = _listed()
    for name, state in {(row["name"], row["state"]) for row in listed}:
        if state == "duplicate":
            session.warn(str(_fault_of(name)))
    header = ["name", "state", "from", "version"]
    text = render.table(header, [[row[key] for key in header] for row in listed])
    session.result({"quantizers": listed}, text, "\n".join(row["name"] for row in listed))


def _listed() -> list[dict[str, str]]:
    offers = registry.offers(registry.QUANTIZERS)
    count = Counter(offer.name for offer in offers)
    return [
        {
            "name": offer.name,
            "state": "duplicate" if count[offer.name] > 1 else "installed",
            "from": "built in" if offer.built_in else offer.distribution,
            "version": offer.version,
        }
        for offer in offers
    ]


def _fault_of(name: str) -> PluginError | None:
    """Why the registry refuses ``name``, without importing it."""
    try:
        registry.find(registry.QUANTIZERS, name)
    except PluginError as error:
        return error
    return None


def _show(session: Session, name: str, given: dict[str, Any]) -> None:
    if given:
        raise UsageError(
            f"options of {name} are given to be checked", hint="add --check, or leave them out"
        )
    from amaqctl.cli.plugin_options import described_options
    from amaqctl.quantizer import load_quantizer

    cls = load_quantizer(name)
    offer = registry.find(registry.QUANTIZERS, name)
    with offer.blamed("Config"):  # a default may be made by its own code
        options = described_options(cls.Config)
    summary = (cls.__doc__ or "").strip().partition("\n")[0]
    data: dict[str, Any] = {
        "name": name,
        "from": offer.distribution,
        "version": offer.version,
        "summary": summary,
        "options": options,
    }
    session.result(data, _options_text(data), "\n".join(o["option"] for o in data["options"]))


def _options_text(data: dict[str, Any]) -> str:
    """A block an option on a terminal, where descriptions need room; else a table."""
    options = data["options"]
    if not (sys.__stdout__ and sys.__stdout__.isatty()):
        header = ["option", "type", "default", "description"]
        return render.table(header, [[o[key] for key in header] for o in options], False)
    width = max(20, shutil.get_terminal_size().columns)
    lines = [f"{data['name']}  from {data['from']} {data['version']}", data["summary"], ""]
    for option in options:
        head = f"{option['option']}: {option['type']}, default {option['default']}"
        lines.append(render.wrap(head, "    "))
        indent = "    "
        lines += textwrap.wrap(
            option["description"], width, initial_indent=indent, subsequent_indent=indent
        )
    return "\n".join(lines if options else [*lines[:2], "no options"])


def _check(session: Session, asked: str | None) -> None:
    """Run the contract.

    Args:
        asked: a name, maybe with options; None for all that are installed.

    Raises:
        PluginError: the named quantizer cannot be had.
        UsageError: it has no such options.
        CheckError: a promise is broken, or, without a name, a quantizer cannot be had.
    """
    if asked is None:
        checked = [{**row, **_checked(session, row["name"], [{}])} for row in _listed()]
    else:
        name, options = name_and_options(asked, "plugins")
        registry.find(registry.QUANTIZERS, name)  # before torch, which the rest needs
        from amaqctl.quantizer import load_quantizer
        from amaqctl.trace.choice import choice_of

        load_quantizer(name)
        if options:
            choice_of(asked, name, options, "plugins")
        rows = [row for row in _listed() if row["name"] == name]
        sets = [options] if ":" in asked else None
        checked = [{**row, **_checked(session, name, sets)} for row in rows]
    bad = [row["name"] for row in checked if row["state"] != "ok"]
    data = {"quantizers": checked}
    text, bare = _check_text(checked), "\n".join(dict.fromkeys(bad))
    if bad:
        names = ", ".join(dict.fromkeys(bad))
        error = CheckError(f"the contract is not kept by {names}", error_id="CHECK-CONTRACT")
        session.failed_check(data, text, bare, error)
    session.result(data, text, bare)


def _checked(
    session: Session, name: str, option_sets: Sequence[Mapping[str, Any]] | None
) -> dict[str, Any]:
    """State, fault and clauses of one quantizer; nothing that it does ends the program."""
    from amaqctl.testing import CLAUSES, check_clauses, subjects_of

    try:
        fault = _fault_of(name)
        if fault is not None:
            return {"state": "duplicate", "fault": str(fault), "clauses": []}
        subjects = subjects_of(name, option_sets)
    except AmaqError as error:
        return {"state": "broken", "fault": str(error), "clauses": []}
    sets = len({str(subject.options) for subject in subjects})
    session.note(f"checking {name}" + (f" with {sets} sets of options …" if sets > 1 else " …"))
    found: dict[str, list[dict[str, str]]] = {clause.name: [] for clause in CLAUSES}
    num_runs = dict.fromkeys(found, 0)
    for done in check_clauses(subjects):
        num_runs[done.clause.name] += 1
        if done.finding is not None:
            finding = done.finding
            entry = {"subject": finding.subject, "case": finding.case}
            entry |= {"expected": finding.expected, "got": finding.got}
            found[done.clause.name].append(entry)
    clauses = [
        {
            "clause": clause.name,
            "promise": clause.promise,
            "is_run": num_runs[clause.name] == len(subjects),
            "findings": found[clause.name],
        }
        for clause in CLAUSES
    ]
    return {"state": "failed" if any(found.values()) else "ok", "fault": None, "clauses": clauses}


def _check_text(checked: list[dict[str, Any]]) -> str:
    rows = []
    for row in checked:
        kept = sum(c["is_run"] and not c["findings"] for c in row["clauses"])
        kept_text = f"{kept} of {len(row['clauses'])}" if row["clauses"] else "-"
        rows.append([row["name"], row["state"], kept_text, row["from"], row["version"]])
    lines = [render.table(["name", "state", "clauses kept", "from", "version"], rows)]
    for row in checked:
        if row["fault"]:
            lines.append(f"\n{row['name']}: {row['fault']}")
        for clause in row["clauses"]:
            for finding in clause["findings"]:
                place = ": ".join(filter(None, (finding["subject"], finding["case"])))
                lines.append(f"\n{clause['clause']}: {clause['promise']}")
                lines.append(f"  {place}")
                lines.append(f"  expected {finding['expected']}")
                lines.append(f"  got      {finding['got']}")
        left_out = [clause["clause"] for clause in row["clauses"] if not clause["is_run"]]
        if left_out:
            lines.append(f"\n{row['name']}: too slow to be looked at further, without")
            lines.append(f"  {', '.join(left_out)}")
    return "\n".join(lines)
