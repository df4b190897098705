"""`amaqctl train PROFILE --party FILE --dry-run`: whether the parties agree, before anything runs.

What can be told here is looked at here; then the parties greet, compare as they would for training,
and part. No weight is read, and nothing is written.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amaqctl.cli.console.early import checked_profile
from amaqctl.cli.console.render import facts
from amaqctl.cli.console.session import Session
from amaqctl.errors import AmaqError, TransportError, UsageError

if TYPE_CHECKING:
    from amaqctl.build.membership import Membership
    from amaqctl.profile import LoadedProfile

_WORDS = "it was a dry run"


def dry_run_as_party(
    session: Session, party_file: Path, profile: str, overrides: list[str]
) -> None:
    """Greet the other parties, compare, and report.

    Raises:
        InputError: the parties differ; the key is named on both sides.
        AmaqError: something is not as it must be, here or at another party.
    """
    from amaqctl.build.membership import read_party
    from amaqctl.profile import load_profile

    party = read_party(party_file, load_profile(profile, overrides))
    if party.clients:
        raise UsageError("--dry-run goes with one client, and this server has several")
    loaded = checked_profile(profile, overrides, has_data=party.route.leads)
    session.note("loading …")
    from amaqctl.build.membership import join
    from amaqctl.build.parts import resolve_parts

    membership = join(
        resolve_parts(loaded), party, lambda status: session.note(f"{status.peer} {status.text}")
    )
    try:
        told = (_lead if membership.route.leads else _follow)(session, membership, loaded)
    except AmaqError as error:
        membership.transport.abort(error)
        raise
    finally:
        membership.transport.close()
    _report(session, membership, told)


def _lead(session: Session, membership: Membership, loaded: LoadedProfile) -> dict[str, Any]:
    from amaqctl.build import load_task
    from amaqctl.build.assembly import base_of
    from amaqctl.build.connect import data_facts
    from amaqctl.build.parties import document_of, meet

    base = base_of(loaded)
    _, task = load_task(base.loaded, base.parts, base.source)
    data = data_facts(base.loaded, task)
    session.note(f"waiting for {', '.join(membership.route.peers)} …")
    met = meet(base, membership, document_of(base, membership, "dry-run", [], data), data, {})
    with contextlib.suppress(TransportError):  # one that runs dry too may be gone
        met.followers.stop(_WORDS)
    return {"data": data.model_dump(), "warnings": list(met.warnings)}


def _follow(session: Session, membership: Membership, loaded: LoadedProfile) -> dict[str, Any]:
    from amaqctl.build.assembly import base_of
    from amaqctl.build.parties import document_of
    from amaqctl.following.follow import answer, hear_greeting
    from amaqctl.party.notes import MAX_NOTE_BYTES, Stop, note_from_bytes
    from amaqctl.transports.transport import ORDER, Address

    base = base_of(loaded)
    session.note(f"waiting for {membership.route.leader} …")
    greeted = hear_greeting(base, membership)
    mine = document_of(base, membership, greeted.theirs.session, [])
    warnings = answer(base, membership, greeted, mine)
    order = membership.transport.receive(Address(membership.route.stages[0], ORDER))
    if not isinstance(note_from_bytes(order, MAX_NOTE_BYTES)[0], Stop):
        raise TransportError(f"{_WORDS} here, and {membership.route.leader} trains")
    return {"data": greeted.data.model_dump(), "warnings": warnings}


def _report(session: Session, membership: Membership, told: dict[str, Any]) -> None:
    route = membership.route
    for text in told["warnings"]:
        session.warn(text)
    stages = [f"{n}: {holder}" for n, holder in enumerate(route.holders)]
    data = {"party": route.me, "holders": list(route.holders), "agreed": list(route.peers), **told}
    rows = [
        ("party", f"{route.me}, which {'leads' if route.leads else 'follows'}"),
        ("stages", ", ".join(stages)),
        ("agreed", f"with {', '.join(route.peers)}, on every setting that both must have alike"),
        ("data", f"{told['data']['num_samples']} samples, {told['data']['num_positions']} tokens"),
    ]
    session.result(data, facts(rows), "agreed")
