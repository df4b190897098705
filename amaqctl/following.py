"""A follower's run: from a profile and a party file to its own run folder, beside the leader's.

It has no data. What it must know of them, and which run it is, comes with the leader's greeting,
and is compared before a weight is read.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaqctl.build.assembly import Base, assemble, base_of
from amaqctl.build.membership import Membership
from amaqctl.build.parties import document_of, limits_of, max_note_bytes
from amaqctl.engine.checkpoint_folder import good_checkpoints, step_of
from amaqctl.engine.environment import environment
from amaqctl.engine.run_folder import RunFolder, utc_now
from amaqctl.errors import AmaqError, WireError
from amaqctl.party.agreement import Document, agree
from amaqctl.party.follower import Follower, FollowSettings, Reporter
from amaqctl.party.notes import MAX_NOTE_BYTES, Greeting, note_from_bytes, note_to_bytes
from amaqctl.party.states import PartyState, after
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
            steps = self.follower.follow()
        except BaseException as error:
            code = error.exit_code if isinstance(error, AmaqError) else 1
            self.run.log(f"ended: {error}")
            self.run.update(status="failed", ended=utc_now(), exit_code=code)
            raise
        else:
            traffic = self.follower.traffic
            result = {
                "steps": steps,
                "wire_bytes": traffic.total_bytes,
                "wire_values": traffic.values,
            }
            self.run.log("done")
            self.run.update(status="done", ended=utc_now(), exit_code=0, result=result)
            return result
        finally:
            self.run.unlock()


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
    place = membership.route.stages[0]
    data = membership.transport.receive(Address(place, ORDER))
    note, _ = note_from_bytes(data, MAX_NOTE_BYTES)
    after(PartyState.connected, note)
    if not isinstance(note, Greeting):
        raise WireError(f"'{note.kind}' where 'greeting' was due")
    theirs = Document.of(note)
    if theirs.data is None:
        raise WireError("a leader that says nothing of its data")
    run = place_of_run if isinstance(place_of_run, RunFolder) else None
    session = theirs.session if run is None else str(run.run.get("session", ""))
    saved = [step_of(p) for p in good_checkpoints(run.path / "checkpoints")] if run else []
    mine = document_of(base, membership, session, saved)
    membership.transport.allow(limits_of(base, theirs.data))
    # Said before it is compared, so that the other side names the difference too.
    membership.transport.send(Address(place, REPLY), note_to_bytes(mine.greeting()))
    agreement = agree(mine, theirs)
    engine, contents = assemble(base, theirs.data, membership)
    if run is None:
        run = _new_run(
            base, membership, theirs, place_of_run if isinstance(place_of_run, Path) else None
        )
    run.lock()
    settings = FollowSettings(
        place=place,
        max_steps=base.loaded.profile.train.max_steps,
        vocab_size=base.config.vocab_size,
        max_note_bytes=max_note_bytes(base, theirs.data),
    )
    follower = Follower(engine, contents, run, membership.transport, settings, reporter)
    return Followed(run, follower, list(agreement.warnings))


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
