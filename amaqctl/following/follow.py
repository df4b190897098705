"""A follower's run: from a profile and a party file to its own run folder, beside the leader's.

It has no data. What it must know of them, and which run it is, comes with the leader's greeting,
and is compared before a weight is read.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaqctl.build.assembly import Base, assemble, base_of
from amaqctl.build.membership import Membership
from amaqctl.build.parties import (
    NO_SHAPES,
    check_facts,
    document_of,
    limits_of,
    max_note_bytes,
)
from amaqctl.engine.checkpoint_folder import good_checkpoints, step_of
from amaqctl.engine.environment import environment
from amaqctl.engine.fellows import Fellows
from amaqctl.engine.run_folder import RunFolder, utc_now
from amaqctl.errors import AmaqError, TransportError, WireError
from amaqctl.model.stage_model import StageModel
from amaqctl.party.agreement import DataFacts, Document, agree
from amaqctl.party.follow_settings import FollowSettings
from amaqctl.party.follower import Follower, Reporter
from amaqctl.party.notes import MAX_NOTE_BYTES, Greeting, Stop, note_from_bytes, note_to_bytes
from amaqctl.party.states import PartyState, after
from amaqctl.party.weights import Shapes
from amaqctl.paths import shown
from amaqctl.profile import LoadedProfile
from amaqctl.transports.transport import ORDER, REPLY, Address


@dataclass(frozen=True)
class Followed:
    """A follower that agreed with its leader.

    Args:
        warnings: what may change last bits, one sentence each.
    """

    run: RunFolder
    follower: Follower
    warnings: list[str]

    def follow(self) -> dict[str, Any]:
        """Obey to the end; ``run.json`` says how it ended.

        Returns:
            Steps of the run, and the bytes that this party sent.

        Raises:
            AmaqError: as `amaqctl.party.follower.Follower.follow`.
        """
        try:
            return self.follower.follow()
        except BaseException as error:
            code = error.exit_code if isinstance(error, AmaqError) else 1
            self.run.log(f"ended: {error}")
            self.run.update(status="failed", ended=utc_now(), exit_code=code)
            raise
        finally:
            self.run.unlock()


@dataclass(frozen=True)
class Greeted:
    """A leader that has said what it is about to do.

    Args:
        data: what it says of its data.
    """

    theirs: Document
    data: DataFacts


def join_as_follower(
    loaded: LoadedProfile,
    membership: Membership,
    place_of_run: RunFolder | Path | None,
    reporter: Reporter,
) -> Followed:
    """Wait for the leader, agree, and build the stages held here.

    Args:
        place_of_run: the run to go on with, or the folder of a new one; None for one under
            ``output.root``.

    Raises:
        InputError: this party and the leader differ; the key is named on both sides.
        AmaqError: the leader failed or is lost, or a stage cannot be built.
    """
    base = base_of(loaded)
    greeted = hear_greeting(base, membership)
    run = place_of_run if isinstance(place_of_run, RunFolder) else None
    session = session_of(run, greeted)
    mine = document_of(base, membership, session, saved_steps(run))
    warnings = answer(base, membership, greeted, mine)
    # By its first order the leader has made its own run folder. If this one were made before, and
    # the leader killed meanwhile, it would be of a session that nobody can go on with.
    order = membership.transport.peek(Address(membership.route.stages[0], ORDER))
    first, _ = note_from_bytes(order, max_note_bytes(base, greeted.data))
    if isinstance(first, Stop):
        raise TransportError(
            f"the leader stopped before the run began: {first.text}",
            where=f"party {membership.route.leader}",
            error_id="PEER-STOPPED",
        )
    folder = place_of_run if isinstance(place_of_run, Path) else None
    return made(base, membership, greeted, run or folder, reporter, warnings)


@dataclass(frozen=True)
class Share:
    """One client's part of a server.

    Args:
        models: copies of the stages held here, over one base.
        fellows: the engines of the other clients.
        client_shapes: of the weights that each client trains by itself.
    """

    models: Mapping[int, StageModel]
    fellows: Fellows
    client_shapes: Shapes


def hear_greeting(base: Base, membership: Membership) -> Greeted:
    """Wait for a leader.

    Raises:
        WireError: it does not begin with a greeting, or its data cannot be those of the profile.
        AmaqError: it failed or is lost.
    """
    data = membership.transport.receive(Address(membership.route.stages[0], ORDER))
    note, _ = note_from_bytes(data, MAX_NOTE_BYTES)
    after(PartyState.connected, note)
    if not isinstance(note, Greeting):
        raise WireError(f"'{note.kind}' where 'greeting' was due")
    theirs = Document.of(note)
    if theirs.data is None:
        raise WireError("a leader that says nothing of its data")
    check_facts(base, theirs.data)
    return Greeted(theirs, theirs.data)


def session_of(run: RunFolder | None, greeted: Greeted) -> str:
    """Which run this party has to do with."""
    return greeted.theirs.session if run is None else str(run.run.get("session", ""))


def saved_steps(run: RunFolder | None) -> list[int]:
    """Steps of the good checkpoints of a run; none where there is no run."""
    return [step_of(p) for p in good_checkpoints(run.path / "checkpoints")] if run else []


def answer(
    base: Base,
    membership: Membership,
    greeted: Greeted,
    mine: Document,
    client_shapes: Shapes = NO_SHAPES,
) -> list[str]:
    """Greet back, and compare.

    Args:
        client_shapes: of the weights that one of several clients may send.

    Returns:
        What may change last bits, one sentence each.

    Raises:
        InputError: the parties differ; the key is named on both sides.
    """
    membership.transport.allow(limits_of(base, greeted.data, client_shapes))
    # Said before it is compared, so that the other side names the difference too.
    place = membership.route.stages[0]
    membership.transport.send(Address(place, REPLY), note_to_bytes(mine.greeting()))
    return list(agree(mine, greeted.theirs).warnings)


def made(
    base: Base,
    membership: Membership,
    greeted: Greeted,
    place_of_run: RunFolder | Path | None,
    reporter: Reporter,
    warnings: list[str],
    share: Share | None = None,
    due_step: int | None = None,
) -> Followed:
    """Build what follows a leader that was agreed with.

    Args:
        place_of_run: as for `join_as_follower`.
        share: what there is already, where the leader is one of several clients.
        due_step: from which all clients go on together.

    Raises:
        AmaqError: a stage cannot be built, or a run folder not made.
    """
    engine, contents = assemble(
        base, greeted.data, membership, None if share is None else share.models
    )
    if share is not None:
        engine.fellows = share.fellows
    if isinstance(place_of_run, RunFolder):
        run = place_of_run
    else:
        run = _new_run(base, membership, greeted.theirs, place_of_run)
    run.lock()
    settings = FollowSettings(
        place=membership.route.stages[0],
        max_steps=base.loaded.profile.train.max_steps,
        vocab_size=base.config.vocab_size,
        max_note_bytes=max_note_bytes(base, greeted.data),
        client_shapes=NO_SHAPES if share is None else share.client_shapes,
        due_step=due_step,
    )
    follower = Follower(engine, contents, run, membership.transport, settings, reporter)
    return Followed(run, follower, warnings)


def _new_run(
    base: Base, membership: Membership, theirs: Document, folder: Path | None
) -> RunFolder:
    loaded = base.loaded
    facts = {
        "session": theirs.session,
        "party": membership.route.me,
        "identity": {"shared": theirs.shared, "session": theirs.session},
        "seed": loaded.profile.train.seed,
        "command": sys.argv,
    }
    root = shown(loaded.profile.output.root)
    return RunFolder.create(
        f"{loaded.name}-{membership.route.me}",
        root,
        folder,
        loaded.resolved_yaml(),
        facts,
        environment(),
    )
