"""A server of several clients: a thread and a copy of the stages for each, one update for all.

Each client has a run folder of its own here, whole in itself, below the server's; ``roll.jsonl``
beside them says who took part from which step on.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from amaqctl.build.assembly import base_of, load_models
from amaqctl.build.membership import House, Membership
from amaqctl.build.parties import client_shapes, document_of, turns_of
from amaqctl.engine.run_folder import RunFolder, utc_now
from amaqctl.errors import AmaqError, InputError, TransportError
from amaqctl.following.follow import (
    Followed,
    Greeted,
    Share,
    answer,
    hear_greeting,
    made,
    saved_steps,
    session_of,
)
from amaqctl.model.several import copy_over_base
from amaqctl.party.agreement import Document, agree
from amaqctl.party.follower import Reporter
from amaqctl.party.gathering import ClientFellows, Gathering
from amaqctl.profile import LoadedProfile
from amaqctl.storage import explained, open_to_append

_LOOK_SECONDS = 0.5  # how soon an interrupt is seen
ROLL = "roll.jsonl"


@dataclass(frozen=True)
class Served:
    """How a server's run ended.

    Args:
        folder: with a run folder for each client.
        results: steps and bytes of each client that came to the end, by name.
    """

    folder: Path
    results: dict[str, dict[str, Any]]


class Observer(Protocol):
    """Who is told what happens; the command line draws it."""

    def reporter(self, client: str) -> Reporter:
        """For the steps of one client."""

    def tell(self, text: str) -> None:
        """One thing that happened, in one sentence."""


def serve(loaded: LoadedProfile, house: House, folder: Path, observer: Observer) -> Served:
    """Serve every client of the party file until the run of all is over.

    Args:
        folder: of the server; what is in it is gone on with where a client does.

    Raises:
        TransportError: no client came to the end.
        AmaqError: the stages held here cannot be built.
    """
    server = _Server(loaded, house, folder, observer)
    return server.run()


class _Server:
    def __init__(
        self, loaded: LoadedProfile, house: House, folder: Path, observer: Observer
    ) -> None:
        self._house, self._folder, self._observer = house, folder, observer
        self._clients = house.party.clients
        self._base = base_of(loaded)
        stages = house.party.route.stages
        self._models = load_models(self._base, stages)
        self._shapes = client_shapes(self._base, self._models)
        self._gathering = Gathering(
            self._clients,
            house.party.quorum or len(self._clients),
            loaded.profile.clients.wait_seconds,
            loaded.profile.train.max_steps,
            self._call_roll,
            turns_of(loaded, self._clients),
        )
        self._num_threads = torch.get_num_threads()
        self._members: dict[str, Membership] = {}
        self._results: dict[str, dict[str, Any]] = {}
        self._bug: BaseException | None = None

    def run(self) -> Served:
        threads = [
            threading.Thread(target=self._serve, args=(name,), name=f"amaqctl-{name}", daemon=True)
            for name in self._clients
        ]
        for thread in threads:
            thread.start()
        try:
            while not self._gathering.wait_over(_LOOK_SECONDS):
                pass
        finally:
            self._gathering.stop()
            for member in list(self._members.values()):
                over = "the server stops" if self._bug is None else "the server has failed"
                member.transport.fail(TransportError(over, error_id="PEER-OVER"))
            for thread in threads:
                thread.join()
            self._house.door.stop()
        if self._bug is not None:
            raise self._bug
        if not self._results:
            raise TransportError(
                "no client came to the end of the run",
                where=str(self._folder),
                hint="start the server and all clients again with --resume",
                error_id="PEER-LOST",
            )
        return Served(self._folder, self._results)

    def _serve(self, name: str) -> None:
        """The thread of one client: again and again, until it has ended or the run is over."""
        torch.set_num_threads(self._num_threads)
        try:
            while self._gathering.stage != "over" and name not in self._results:
                self._serve_once(name)
        except BaseException as error:
            self._bug = self._bug or error
            self._gathering.stop()

    def _serve_once(self, name: str) -> None:
        member = self._members[name] = self._house.expect(name)
        why = "left"
        try:
            self._results[name] = self._followed(name, member).follow()
            why = "has ended"
        except AmaqError as error:
            if error.error_id != "PEER-STOPPED":
                member.transport.abort(error)
            why = f"left: {error.message}"
            if self._gathering.stage != "over":
                self._observer.tell(f"{name}: {error.message}")
        finally:
            self._gathering.leave(name, why)
            member.transport.close()

    def _followed(self, name: str, member: Membership) -> Followed:
        greeted = hear_greeting(self._base, member)
        run = self._run_of(name, greeted)
        document = document_of(
            self._base, member, session_of(run, greeted), [], clients=self._clients
        )
        try:
            agree(document, greeted.theirs)
        except InputError:
            answer(self._base, member, greeted, document)  # so that the client names it too
            raise
        saved = set(saved_steps(run)) & set(greeted.theirs.told.saved)
        drop = member.transport.fail
        common = self._gathering.arrive(name, sorted(saved), drop)
        told = {"saved": common or (), "is_running": common is None}
        warnings = answer(self._base, member, greeted, _with(document, told), self._shapes)
        with self._gathering.turn:
            models = {i: copy_over_base(model) for i, model in self._models.items()}
            return made(
                self._base,
                member,
                greeted,
                self._free_folder(name) if run is None or common is None else run,
                self._observer.reporter(name),
                warnings,
                Share(models, ClientFellows(self._gathering, name, drop), self._shapes),
                due_step=None if common is None else max(common, default=0),
            )

    def _run_of(self, name: str, greeted: Greeted) -> RunFolder | None:
        """The run of a client that goes on."""
        for path in sorted(self._folder.glob(f"{name}*")):
            if (path / "run.json").is_file():
                run = RunFolder(path)
                if run.run.get("session") == greeted.theirs.session:
                    return run
        return None

    def _free_folder(self, name: str) -> Path:
        number = 1
        while (path := self._folder / (name if number == 1 else f"{name}-{number}")).exists():
            number += 1
        return path

    def _call_roll(self, step: int, present: Sequence[str], why: str) -> None:
        entry = {"step": step, "clients": list(present), "why": why, "time": utc_now()}
        path = self._folder / ROLL
        with explained(path):
            self._folder.mkdir(parents=True, exist_ok=True)
            with open_to_append(path) as file:
                file.write(json.dumps(entry) + "\n")
        self._observer.tell(f"step {step}: {why}; taking part: {', '.join(present) or 'nobody'}")


def _with(document: Document, told: dict[str, Any]) -> Document:
    return document.model_copy(update={"told": document.told.model_copy(update=told)})
