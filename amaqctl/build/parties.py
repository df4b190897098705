"""What a party of several says of itself, and how the leader brings the others together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from amaqctl.build.assembly import Base
from amaqctl.build.connect import device, longest_message
from amaqctl.build.membership import Membership
from amaqctl.build.provenance import RULES
from amaqctl.engine.checkpoint_folder import checkpoint_name, good_checkpoints, step_of
from amaqctl.engine.environment import environment
from amaqctl.errors import ResumeError
from amaqctl.model.weight_files import base_sha256
from amaqctl.party.agreement import PROTOCOL, DataFacts, Document, Told, agree, newest_common
from amaqctl.party.leader import Followers
from amaqctl.party.notes import MAX_NOTE_BYTES, Greeting
from amaqctl.transports.party_settings import TrafficLimits

_CONFIG = "config.json"
_LABEL_BYTES = 4


def document_of(
    base: Base,
    membership: Membership,
    session: str,
    saved: Sequence[int],
    data: DataFacts | None = None,
) -> Document:
    """What this party greets with.

    Args:
        session: of the run.
        saved: steps of its good checkpoints.
        data: of the leader.
    """
    files = base_sha256(base.source)
    profile = base.loaded.profile.model_dump(mode="json")
    own = ("task", "output", "eval", "checkpoint")  # of the leader alone, who decides by them
    shared = {key: value for key, value in profile.items() if key not in own}
    del shared["model"]["id"]  # where it lies; which it is, its files tell
    shared["model"]["config"] = files.pop(_CONFIG, None)
    shared["quantizers"] = {
        role: {"name": part.name, "options": part.config.model_dump(mode="json")}
        for role, part in (("activation", base.parts.activation), ("gradient", base.parts.gradient))
    }
    shared["holders"] = list(membership.route.holders)
    shared["rules"] = RULES
    machine = environment()
    told = Told(
        name=membership.route.me,
        versions=machine["packages"],
        threads=machine["threads"],
        device=str(machine["cuda"] or device()),
        files=files,
        saved=tuple(saved),
    )
    return Document(protocol=PROTOCOL, session=session, shared=shared, told=told, data=data)


def limits_of(base: Base, facts: DataFacts) -> TrafficLimits:
    """What one party may make another hold: messages in flight, notes, and some to spare."""
    train = base.loaded.profile.train
    labels = _LABEL_BYTES * train.batch_size * facts.num_positions
    longest = longest_message(base.loaded, facts, base.config.hidden_size)
    num_links = len(base.ranges) - 1
    return TrafficLimits(
        max_message_bytes=max(longest, max_note_bytes(base, facts)) + labels,
        max_queued_messages=2 * num_links * (train.micro_batches + 2) + 16,
    )


def max_note_bytes(base: Base, facts: DataFacts) -> int:
    """Longest legal note, with labels for a batch of the longest sequences."""
    return (
        MAX_NOTE_BYTES + _LABEL_BYTES * base.loaded.profile.train.batch_size * facts.num_positions
    )


def meet(
    base: Base, membership: Membership, mine: Document, facts: DataFacts
) -> tuple[Followers, dict[str, Sequence[int]], list[str]]:
    """The leader greets every follower, and holds what each answers against its own.

    Returns:
        The followers; the steps that each has saved, by name; warnings.

    Raises:
        InputError: a party differs; the key and both values are named.
        AmaqError: one failed, or is lost.
    """
    followers = Followers(membership.route, membership.transport, max_note_bytes(base, facts))
    for name in followers.names:
        followers.say(name, mine.greeting())
    saved: dict[str, Sequence[int]] = {}
    warnings: list[str] = []
    for name in followers.names:
        agreement = agree(mine, Document.of(followers.hear(name, Greeting)))
        saved[name] = agreement.theirs.told.saved
        warnings += agreement.warnings
    membership.transport.allow(limits_of(base, facts))
    return followers, saved, warnings


def common_checkpoint(
    run: Path, wanted: Path | None, saved: Mapping[str, Sequence[int]]
) -> Path | None:
    """The newest checkpoint that every party has; None where the run starts over.

    Args:
        run: the leader's run folder.
        wanted: the leader's newest, or the one asked for; None where it has none.
        saved: steps of each follower, by name.

    Raises:
        ResumeError: the leader has some, and there is no step that all have.
    """
    if wanted is None:
        return None
    own = [
        step_of(p) for p in good_checkpoints(run / "checkpoints") if step_of(p) <= step_of(wanted)
    ]
    step = newest_common([own, *saved.values()])
    if not step:
        listed = "; ".join(f"{name}: {list(steps) or 'none'}" for name, steps in saved.items())
        raise ResumeError(
            f"no checkpoint is at every party; here {own}, {listed}",
            where=str(run),
            hint="start each party with --resume and the run folder that it had",
        )
    return run / "checkpoints" / checkpoint_name(step)
