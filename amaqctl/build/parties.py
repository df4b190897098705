"""What a party of several says of itself, and how the leader brings the others together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

from amaqctl.build.assembly import Base, lora_settings
from amaqctl.build.connect import LENGTH_MULTIPLE, device, longest_message
from amaqctl.build.membership import Membership
from amaqctl.build.provenance import RULES
from amaqctl.engine.checkpoint_folder import checkpoint_name, good_checkpoints, step_of
from amaqctl.engine.environment import environment
from amaqctl.errors import ResumeError, WireError
from amaqctl.model.several import adapter_shapes
from amaqctl.model.stage_model import StageModel
from amaqctl.model.trained import trained_places
from amaqctl.model.weight_files import base_sha256
from amaqctl.party.agreement import PROTOCOL, DataFacts, Document, Told, agree, newest_common
from amaqctl.party.leader import Followers
from amaqctl.party.notes import MAX_NOTE_BYTES, Greeting
from amaqctl.party.turns import Turns
from amaqctl.party.weights import Shapes, max_weights_bytes
from amaqctl.profile import LoadedProfile
from amaqctl.transports.party_settings import TrafficLimits

NO_SHAPES: Shapes = MappingProxyType({})
_CONFIG = "config.json"
_LABEL_BYTES = 4


def document_of(
    base: Base,
    membership: Membership,
    session: str,
    saved: Sequence[int],
    data: DataFacts | None = None,
    *,
    clients: tuple[str, ...] = (),
    is_running: bool = False,
) -> Document:
    """What this party greets with.

    Args:
        session: of the run.
        saved: steps of its good checkpoints.
        data: of the leader.
        clients, is_running: of a server of several, as in `amaqctl.party.agreement.Told`.
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
        versions=machine["packages"] | _low_bit_version(base.loaded),
        threads=machine["threads"],
        device=str(machine["cuda"] or device()),
        files=files,
        saved=tuple(saved),
        clients=clients,
        is_running=is_running,
    )
    return Document(protocol=PROTOCOL, session=session, shared=shared, told=told, data=data)


def _low_bit_version(loaded: LoadedProfile) -> dict[str, str]:
    """Of what makes the weights of a base in few bits; nothing for any other base."""
    if loaded.profile.model.base_bits is None:
        return {}
    return {"bitsandbytes": version("bitsandbytes")}


def client_shapes(base: Base, models: Mapping[int, StageModel]) -> Shapes:
    """Shapes of the adapter weights that a client of several has, by place.

    Args:
        models: the stages that the server holds.
    """
    settings = lora_settings(base.loaded)
    assert settings is not None, "several clients train adapters"
    held = {place for model in models.values() for place in trained_places(model)}
    every = adapter_shapes(base.config, settings)
    return {place: shape for place, shape in every.items() if place not in held}


def turns_of(loaded: LoadedProfile, clients: tuple[str, ...]) -> Turns | None:
    """Whose turn it is at a step; None where all clients train at once."""
    asked = loaded.profile.clients
    return Turns(clients, asked.average_every) if asked.turns else None


def limits_of(base: Base, facts: DataFacts, client_shapes: Shapes = NO_SHAPES) -> TrafficLimits:
    """What one party may make another hold: messages in flight, notes, and some to spare.

    Args:
        client_shapes: of weights that may come to be averaged.
    """
    train = base.loaded.profile.train
    labels = _LABEL_BYTES * train.batch_size * facts.num_positions
    longest = longest_message(base.loaded, facts, base.config.hidden_size)
    num_links = len(base.ranges) - 1
    return TrafficLimits(
        max_message_bytes=max(
            longest, max_note_bytes(base, facts), max_weights_bytes(client_shapes)
        )
        + labels,
        max_queued_messages=2 * num_links * (train.micro_batches + 2) + 16,
    )


def max_note_bytes(base: Base, facts: DataFacts) -> int:
    """Longest legal note, with labels for a batch of the longest sequences."""
    return (
        MAX_NOTE_BYTES + _LABEL_BYTES * base.loaded.profile.train.batch_size * facts.num_positions
    )


def check_facts(base: Base, facts: DataFacts) -> None:
    """Refuse a longest sequence that no data of this profile have: memory is held by it.

    Raises:
        WireError: it is longer than the model's positions and the profile's length.
    """
    positions = getattr(base.config, "max_position_embeddings", None) or 0
    longest = max(positions, base.loaded.profile.train.max_length) + LENGTH_MULTIPLE
    if facts.num_positions > longest:
        raise WireError(
            f"sequences of {facts.num_positions} tokens where model and profile have at most "
            f"{longest - LENGTH_MULTIPLE}",
            where="the leader's data",
        )


@dataclass(frozen=True)
class Met:
    """The followers of a leader, when all have agreed with it.

    Args:
        saved: steps that each has saved, by name.
        warnings: one sentence each.
        is_running: whether other clients of the server are at work already.
    """

    followers: Followers
    saved: Mapping[str, Sequence[int]]
    warnings: Sequence[str]
    is_running: bool


def meet(
    base: Base,
    membership: Membership,
    mine: Document,
    facts: DataFacts,
    models: Mapping[int, StageModel],
) -> Met:
    """The leader greets every follower, and holds what each answers against its own.

    Args:
        models: the stages that the leader holds.

    Raises:
        InputError: a party differs; the key and both values are named.
        AmaqError: one failed, or is lost.
    """
    shapes = {
        place: tuple(weight.shape)
        for model in models.values()
        for place, weight in trained_places(model).items()
    }
    followers = Followers(
        membership.route, membership.transport, max_note_bytes(base, facts), shapes
    )
    for name in followers.names:
        followers.say(name, mine.greeting())
    told: dict[str, Told] = {}
    warnings: list[str] = []
    for name in followers.names:
        agreement = agree(mine, Document.of(followers.hear(name, Greeting)))
        told[name] = agreement.theirs.told
        warnings += agreement.warnings
    clients = next((one.clients for one in told.values() if len(one.clients) > 1), ())
    followers.has_other_clients = bool(clients)
    followers.turns = turns_of(base.loaded, clients) if clients else None
    membership.transport.allow(limits_of(base, facts, shapes))
    saved = {name: one.saved for name, one in told.items()}
    return Met(followers, saved, warnings, any(one.is_running for one in told.values()))


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
