"""`amaqctl train --party FILE`: this process as one of several that train one run.

All parties give the same profile. The one that holds stage 0 leads: it has the data, decides and
reports, as `train` does by itself. The others follow, and have run folders of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from amaqctl.cli.console.early import checked_profile
from amaqctl.cli.console.following import FollowingProgress, ServingProgress
from amaqctl.cli.console.render import facts, trained_row
from amaqctl.cli.console.session import Session
from amaqctl.engine.advice import advised
from amaqctl.engine.checkpoint_folder import good_checkpoints, step_of
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
    if party.clients:
        root = out or (Path(resume) if resume is not None else None)
        _serve(session, party, loaded, root)
        return None
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

    settings = read_party(party_file, None)
    name = settings.name
    own = Path(resume) / name
    if settings.clients:
        run = _run_of_a_client(own)
    else:
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


def _run_of_a_client(server: Path) -> RunFolder:
    """One of the runs in the folder of a server of several clients: all have one profile."""
    runs = sorted(path.parent for path in server.glob("*/run.json"))
    if not runs:
        raise InputError(
            "there is no run of a client",
            where=str(server),
            hint="give --resume the folder that --out named",
            error_id="INPUT-RUN",
        )
    return RunFolder(runs[0])


def _serve(
    session: Session, party: PartySettings, loaded: LoadedProfile, root: Path | None
) -> None:
    from secrets import token_hex

    session.note("loading …")
    from amaqctl.build.membership import host
    from amaqctl.build.parts import resolve_parts
    from amaqctl.following import serve

    house = host(
        resolve_parts(loaded), party, lambda status: session.note(f"{status.peer} {status.text}")
    )
    if root is None:
        root = Path(loaded.profile.output.root) / f"{loaded.name}-{token_hex(4)}"
    session.note(f"waiting for {', '.join(party.clients)} …")
    observer = ServingProgress(session.quiet)
    served = serve(loaded, house, root / party.name, observer)
    sent = sum(result["wire_bytes"] for result in served.results.values())
    place = str(served.folder)
    data = {"run": place, "party": party.name, "clients": served.results}
    rows = [
        ("run", place),
        ("status", f"served {', '.join(served.results)} to the end"),
        ("wire", f"{mib(sent)} sent from here"),
        ("roll", f"{place}/roll.jsonl"),
    ]
    session.result(data, facts(rows), place)


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
    saved = [] if run is None else [step_of(p) for p in good_checkpoints(run.path / "checkpoints")]
    mine = document_of(built.base, membership, name, saved, facts_)
    session.note(f"waiting for {', '.join(membership.route.peers)} …")
    models = {index: stage.model for index, stage in built.engine.stages.items()}
    met = meet(built.base, membership, mine, facts_, models)
    if met.is_running and run is not None:
        raise InputError(
            "the other clients are at work, and have gone on from where this run was left",
            where=str(run.path),
            hint="start without --resume: it then joins them, with the mean of their adapters",
            error_id="INPUT-PARTY",
        )
    if run is None:
        run = runs.new_run(built, folder, None, name)
    else:
        checkpoint = common_checkpoint(run.path, checkpoint, met.saved)
    for text in (*built.warnings, *met.warnings):
        session.warn(text)
    if checkpoint is not None:
        session.note(f"going on from {checkpoint.name}")
    if met.is_running:
        session.note("joining the other clients at their next mean …")
    built.engine.others = met.followers
    try:
        with TrainingProgress(run.path.name, session.quiet) as progress:
            return built.trainer(run, progress).train(checkpoint, joins=met.is_running), run
    except Interrupted as error:
        met.followers.stop(error.message)
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
        trained_row(run.path, f", of stages {stages}"),
        ("next", advised("inspect-bits", run.path)),
    ]
    session.result(data, facts(rows), str(run.path))
