"""`amaqctl doctor`: what this machine and installation are, and whether they train.

Its JSON is what a bug report needs. Every part is examined on its own: one that fails is a line
of the report, not the end of it.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amaqctl.cli.console.render import facts
from amaqctl.cli.console.session import Json, Quiet, Traceback, command
from amaqctl.errors import CheckError

if TYPE_CHECKING:
    from amaqctl.health.installation import Finding


def doctor(
    strict: Annotated[
        bool, typer.Option("--strict", help="Load every plugin too; exit 8 on any fault.")
    ] = False,
    certificates: Annotated[
        Path | None,
        typer.Option(
            "--certificates", metavar="DIR", help="Look at a party's certificates there too."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Look at Python, packages, torch, cache, disk, terminal and plugins, and train two steps.

    A fault is something that keeps amaqctl from working; a warning is not.
    """
    with command("amaqctl.doctor/1", json=json, quiet=quiet, traceback=traceback) as session:
        from amaqctl import __version__
        from amaqctl.health.examination import examine

        found = list(examine(session.stdout, strict, session.note, certificates))
        faults = [finding for finding in found if finding.state == "fault"]
        data = {
            "amaqctl": __version__,
            "num_faults": len(faults),
            "findings": [asdict(finding) for finding in found],
        }
        text = facts([(f.name, _line(f)) for f in found])
        bare = "\n".join(f.name for f in faults)
        if faults and strict:
            names = ", ".join(f.name for f in faults)
            session.failed_check(
                data, text, bare, CheckError(f"at fault: {names}", error_id="CHECK-DOCTOR")
            )
        session.result(data, text, bare)


def _line(finding: Finding) -> str:
    line = finding.text if finding.state == "ok" else f"{finding.state}: {finding.text}"
    return f"{line}  ({finding.hint})" if finding.hint else line
