"""`amaqctl train --party FILE`: this process as one of several that train one run.

All parties give the same profile. The one that holds stage 0 leads: it has the data, decides and
reports, as `train` does by itself. The others follow, and have run folders of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from amaqctl.cli.console.early import checked_profile
from amaqctl.cli.console.following import FollowingProgress
from amaqctl.cli.console.render import facts
from amaqctl.cli.console.session import Session
from amaqctl.engine.advice import advised
from amaqctl.engine.resumable import refuse_early
from amaqctl.engine.run_folder import RunFolder
from amaqctl.engine.run_search import existing_run
from amaqctl.errors import AmaqError, InputError, Interrupted, TransportError
from amaqctl.units import duration, mib

if TYPE_CHECKING:
    from amaqctl.build.membership import Membership
    from amaqctl.profile import LoadedProfile
    from amaqctl.transports.party_settings import PartySettings


def train_as_party(
    session: Session,
    party_file: Path,
    profile: str | None,
    resume: str | None,
    overrides: list[str],
    out: Path | None,
    max_steps: int | None,
) -> tuple[dict[str, Any], RunFolder] | None:
    """Join the others, and lead or follow.

    Args:
        out: parent of this party's run folder, which is called like the party.

    Returns:
        What `train` reports of the leader's run, and that run; None where this party followed,
        which has been reported.

    Raises:
        AmaqError: everything that ends a run, at any party.
    """
    party, loaded, run = _asked(party_file, profile, resume, overrides, out)
    if run is not None and party.route.leads:
        refuse_early(run, max_steps)
    session.note("loading …")
    from amaqctl.build.membership import join
    from amaqctl.build.parts import resolve_parts

    membership = join(
        resolve_parts(loaded), party, lambda status: session.note(f"{status.peer} {status.text}")
    )
    folder = None if out is None else out / party.name
    try:
        if membership.route.leads:
            return _lead(session, membership, loaded, run, overrides, folder)
        _follow(session, membership, loaded, run or folder)
    except AmaqError as error:
        if error.error_id != "PEER-STOPPED":
            membership.transport.abort(error)
        raise
    except BaseException:
        membership.transport.fail(TransportError("its program was stopped"))
        raise
    finally:
        membership.transport.close()
    return None


def _asked(
    party_file: Path,
    profile: str | None,
    resume: str | None,
    overrides: list[str],
    out: Path | None,
) -> tuple[PartySettings, LoadedProfile, RunFolder | None]:
    from amaqctl.build.membership import read_party
    from amaqctl.profile import load_profile

    if resume is None:
        assert profile is not None
        loaded = load_profile(profile, overrides)
        party = read_party(party_file, loaded)
        folder = None if out is None else out / party.name
        checked = checked_profile(profile, overrides, folder, has_data=party.route.leads)
        return party, checked, None
    from amaqctl.runs import profile_of

    name = read_party(party_file, None).name
    own = Path(resume) / name
    run = existing_run(str(own) if (own / "run.json").exists() else resume)
    loaded = profile_of(run, overrides)
    if (known := run.run.get("party", name)) != name:
        raise InputError(
            f"the run of party '{known}', and this is '{name}'",
            where=str(run.path),
            hint="give the run folder of this party",
            error_id="INPUT-PARTY",
        )
    return read_party(party_file, loaded), loaded, run


def _lead(
    session: Session,
    membership: Membership,
    loaded: LoadedProfile,
    run: RunFolder | None,
    overrides: list[str],
    folder: Path | None,
) -> tuple[dict[str, Any], RunFolder]:
    from secrets import token_hex

    from amaqctl import build, forecast, runs
    from amaqctl.build.connect import data_facts
    from amaqctl.build.parties import common_checkpoint, document_of, meet
    from amaqctl.cli.console.progress import TrainingProgress

    if run is None:
        built = build.build(loaded, membership=membership)
        forecast.refuse_full_disk(built, folder)
        runs.check_batches(built)
        checkpoint, name = None, token_hex(8)
    else:
        built, run, checkpoint = runs.resumed(str(run.path), overrides, session.warn, membership)
        name = str(run.run.get("session", ""))
    facts_ = data_facts(built.loaded, built.task)
    mine = document_of(built.base, membership, name, [], facts_)
    session.note(f"waiting for {', '.join(membership.route.peers)} …")
    followers, saved, warnings = meet(built.base, membership, mine, facts_)
    if run is None:
        run = runs.new_run(built, folder, None, name)
    else:
        checkpoint = common_checkpoint(run.path, checkpoint, saved)
    for text in (*built.warnings, *warnings):
        session.warn(text)
    if checkpoint is not None:
        session.note(f"going on from {checkpoint.name}")
    built.engine.others = followers
    try:
        with TrainingProgress(run.path.name, session.quiet) as progress:
            return built.trainer(run, progress).train(checkpoint), run
    except Interrupted as error:
        followers.stop(error.message)
        raise


def _follow(
    session: Session,
    membership: Membership,
    loaded: LoadedProfile,
    place: RunFolder | Path | None,
) -> None:
    from amaqctl.following import join_as_follower

    route = membership.route
    stages = ", ".join(map(str, route.stages))
    session.note(f"waiting for {route.leader}, to hold stages {stages} …")
    progress = FollowingProgress(session.quiet)
    followed = join_as_follower(loaded, membership, place, progress)
    for text in followed.warnings:
        session.warn(text)
    result = followed.follow()
    run = followed.run
    data = {"run": str(run.path), "id": run.run["id"], "party": route.me, **result}
    rows = [
        ("run", data["run"]),
        (
            "status",
            f"followed {route.leader} for {result['steps']} steps, {duration(progress.seconds)}",
        ),
        ("wire", f"{mib(result['wire_bytes'])} sent from here"),
        ("adapter", f"{data['run']}/adapter, of stages {stages}"),
        ("next", advised("inspect-bits", run.path)),
    ]
    session.result(data, facts(rows), str(run.path))
