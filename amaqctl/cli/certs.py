"""`amaqctl certs`: a small authority for the parties of a run, and what its certificates say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amaqctl.certs.name import checked_name
from amaqctl.cli.console import render
from amaqctl.cli.console.commands import Command, Group
from amaqctl.cli.console.session import Json, Quiet, Session, Traceback, command
from amaqctl.errors import UsageError
from amaqctl.extras import networking

if TYPE_CHECKING:
    from amaqctl.certs.inspection import CertificateFacts

app = typer.Typer(
    cls=Group,
    help="Make and show the certificates with which parties prove who they are.",
    no_args_is_help=True,
)

Dir = Annotated[
    Path, typer.Option("--dir", metavar="DIR", help="The folder of the authority and its parties.")
]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host", metavar="HOST", help="A DNS name or address of its machine; repeatable."
    ),
]
Days = Annotated[
    int, typer.Option("--days", min=1, max=3650, metavar="N", help="How long it holds.")
]
_NEEDED_BY = "amaqctl certs"
_DEFAULT_DIR = Path("certs")
_DEFAULT_DAYS = 365


@app.command("init", cls=Command)
def init(
    folder: Dir = _DEFAULT_DIR,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="The first party, which listens.")
    ] = "server",
    host: Hosts = None,
    days: Days = _DEFAULT_DAYS,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Make an authority in a new folder, and the certificate of the party that listens.

    DIR/ca stays where it is; DIR/NAME goes to that party's machine.
    """
    with command("amaqctl.certs-init/1", json=json, quiet=quiet, traceback=traceback) as session:
        _check(name)
        networking("cryptography", _NEEDED_BY)
        from amaqctl.certs.authority import make_authority

        make_authority(folder, name, host or [], days)
        _show(session, folder, folder / name)


@app.command("client", cls=Command)
def client(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The party, as in alice.")],
    folder: Dir = _DEFAULT_DIR,
    host: Hosts = None,
    days: Days = _DEFAULT_DAYS,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Make the certificate of one more party, signed by the authority in DIR.

    DIR/NAME goes to that party's machine. A certificate that is there is never overwritten.
    """
    with command("amaqctl.certs-client/1", json=json, quiet=quiet, traceback=traceback) as session:
        _check(name)
        networking("cryptography", _NEEDED_BY)
        from amaqctl.certs.authority import make_party

        make_party(folder, name, host or [], days)
        _show(session, folder / name, folder / name)


@app.command("show", cls=Command)
def show(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder with certificates in it or below it.")
    ] = _DEFAULT_DIR,
    json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """List certificates with their names, expiry and fingerprints.

    Warns of what expires within thirty days, and of keys that others may read.
    """
    with command("amaqctl.certs-show/1", json=json, quiet=quiet, traceback=traceback) as session:
        networking("cryptography", _NEEDED_BY)
        _show(session, folder, folder)


def _check(name: str) -> None:
    try:
        checked_name(name)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _show(session: Session, folder: Path, bare: Path) -> None:
    from amaqctl.certs.inspection import inspect_folder

    found = inspect_folder(folder)
    for warning in [text for facts in found for text in facts.warnings]:
        session.warn(warning)
    header = ["name", "for", "expires", "SHA-256", "file"]
    text = render.table(header, [_row(facts) for facts in found])
    session.result({"certificates": [_data(facts) for facts in found]}, text, str(bare))


def _row(facts: CertificateFacts) -> list[str]:
    holds_for = "signing" if facts.is_authority else " ".join(facts.names)
    return [facts.name, holds_for, f"{facts.expires:%Y-%m-%d}", facts.fingerprint[:16], facts.path]


def _data(facts: CertificateFacts) -> dict[str, Any]:
    return {
        "file": facts.path,
        "name": facts.name,
        "names": list(facts.names),
        "is_authority": facts.is_authority,
        "expires": facts.expires.isoformat(),
        "sha256": facts.fingerprint,
        "warnings": list(facts.warnings),
    }
