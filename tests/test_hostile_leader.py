"""A leader with a valid certificate that lies, floods or stalls: its follower ends with one line.

One process is the follower, a command for each attack; the attacks are made here, in their order.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from party_processes import HOLDERS, ended, prepare, start
from transport_parts import THERE

from amaqctl.build.assembly import Base, base_of
from amaqctl.build.membership import Membership
from amaqctl.build.parties import document_of
from amaqctl.engine.run_folder import RunFolder
from amaqctl.errors import AmaqError
from amaqctl.party import notes
from amaqctl.party.agreement import DataFacts
from amaqctl.profile import load_profile
from amaqctl.transports.frames import Frame, Kind, Opening
from amaqctl.transports.grpc_stream import GrpcTransport
from amaqctl.transports.party_settings import PartySettings, TrafficLimits
from amaqctl.transports.transport import ORDER, REPLY, Address

LEASE, TIMEOUT = 3.0, 6.0
TO, FROM = Address(1, ORDER), Address(1, REPLY)
FACTS = DataFacts(num_positions=64, num_samples=24, fingerprint="f")
MIB = 2**20
TRAIN = notes.Train(step=0, num_loss_tokens=9, is_clean=False)


class Leader:
    """What claims to be the client, up to where it lies."""

    def __init__(self, base: Base, certificates: Path, place: str) -> None:
        options = {"silence_seconds": 1.0, "lease_seconds": 20.0, "timeout_seconds": 60.0}
        settings = PartySettings(
            name="client",
            holders=HOLDERS,
            connect={"server": place},
            certificates=certificates / "client",
        )
        limits = TrafficLimits(64 * MIB, 100)
        self.transport = GrpcTransport(GrpcTransport.Config(**options), settings, limits)
        self._base, self._membership = base, Membership(settings.route, self.transport)

    def say(self, *said: notes.Note) -> None:
        """Send orders."""
        for note in said:
            self.transport.send(TO, notes.note_to_bytes(note))

    def greet(self, facts: DataFacts | None = FACTS) -> None:
        """Say what the follower has itself, and hear its answer."""
        self.say(document_of(self._base, self._membership, "a session", [], facts).greeting())
        self.transport.receive(FROM)

    def agreed(self, *said: notes.Note) -> None:
        """Greet, and send orders."""
        self.greet()
        self.say(*said)

    def flood(self, mib: int) -> None:
        """Send tensors that nobody asked for until this side is told."""
        self.greet()
        for _ in range(mib):
            self.transport.send(THERE, bytes(MIB))
        self.transport.receive(FROM)

    def lie_in_a_tensor(self, data: bytes) -> None:
        """Order a step and send ``data`` as its hidden states."""
        self.agreed(notes.Restore(step=0), TRAIN)
        self.transport.send(THERE, data)


Attack = Callable[[Leader], Any]
LONG = DataFacts(num_positions=2**24, num_samples=24, fingerprint="f")
LIES: dict[str, tuple[Attack, int, str]] = {
    "no note": (lambda one: one.transport.send(TO, b"AMAQ?"), 10, "is cut off"),
    "no greeting": (lambda one: one.say(TRAIN), 10, "'train' out of turn: this party is connected"),
    "no data": (lambda one: one.greet(None), 10, "a leader that says nothing of its data"),
    "long": (lambda one: one.greet(LONG), 10, "sequences of 16777216 tokens where model and"),
    "too early": (lambda one: one.agreed(TRAIN), 10, "'train' out of turn: this party is agreed"),
    "no step": (
        lambda one: one.agreed(notes.Restore(step=0), notes.Update(norm=1.0)),
        10,
        "'update' out of turn: this party is ready",
    ),
    "other step": (
        lambda one: one.agreed(notes.Restore(step=0), TRAIN.model_copy(update={"step": 7})),
        10,
        "step 7 where 0 is due",
    ),
    "not saved": (lambda one: one.agreed(notes.Restore(step=5)), 9, "which is not saved here"),
    "tensor": (lambda one: one.lie_in_a_tensor(b"?" * 999), 10, "not an amaqctl message"),
    "address": (
        lambda one: one.transport._peers["server"].send(Address(0, "gradient"), b"mine"),
        10,
        "party client: a message for link 0 gradient, which is not this peer's to send",
    ),
    "flood": (lambda one: one.flood(1000), 10, "party client: sends more than may lie unread ("),
    "alive and mute": (lambda one: one.transport.receive(FROM), 10, "nothing came in 6 s"),
}
RAW: dict[str, tuple[list[bytes], str]] = {
    "frame": ([b"short"], "party client: a frame of 5 bytes"),
    "number": (
        [Frame(Kind.MESSAGE, TO, 3, 0, b"x").to_bytes(0)],
        "party client: frame 3 where 0 is due",
    ),
    "silence": ([], "party client: not heard of for its lease of 3 s"),
}


def _stream(certificates: Path, place: str, frames: list[bytes]) -> None:
    """A stream that opens as it should, carries ``frames``, and is then kept open."""
    folder = certificates / "client"
    files = [(folder / name).read_bytes() for name in ("ca.crt", "client.key", "client.crt")]
    options = [("grpc.ssl_target_name_override", "server"), ("grpc.use_local_subchannel_pool", 1)]
    is_over = threading.Event()

    def said() -> Iterator[bytes]:
        yield Opening("client", secrets.token_bytes(16), 0).to_bytes()
        yield from frames
        is_over.wait(60)

    credentials = grpc.ssl_channel_credentials(*files)
    num_answers = 0
    while not num_answers:  # the command before may still be leaving, and turns it away
        with grpc.secure_channel(place, credentials, options) as channel:
            call = channel.stream_stream("/amaqctl.Party/Stream")(said(), wait_for_ready=True)
            with contextlib.suppress(grpc.RpcError):
                for _ in call:
                    num_answers += 1
    is_over.set()


@dataclass
class Found:
    """What the follower came to.

    Args:
        ends: exit code and stderr of its command under each attack.
        flood_mib: that its memory grew in the flood.
        num_runs: that it made under attacks.
        status: in ``run.json`` when an honest leader heard that all was done, and its exit code.
    """

    ends: dict[str, tuple[int, str]]
    flood_mib: int
    num_runs: int
    status: tuple[str, int]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """One follower under every attack, and in the end with an honest leader."""
    folder = tmp_path_factory.mktemp("hostile")
    prepare(folder)
    place = (folder / "client.yaml").read_text().split("'")[1]
    patience = f"{{silence_seconds: 1.0, lease_seconds: {LEASE}, timeout_seconds: {TIMEOUT}}}"
    sets = ["--set", f"transport={{name: grpc, options: {patience}}}"]
    # Silence comes last: its follower waits for its lease before the next begins.
    runs = [f"run-{number}" for number in range(len(LIES) + len(RAW))]
    outs = [*runs[: len(LIES)], "honest", *runs[len(LIES) :]]
    follower = start(
        folder,
        [["train", "p.yaml", *sets, "--party", "server.yaml", "--out", out] for out in outs],
    )
    data = [f"task.options.train={folder / 'd.jsonl'}", sets[1]]
    base = base_of(load_profile(str(folder / "p.yaml"), data))
    memory = {}
    for name, (attack, *_) in LIES.items():
        leader = Leader(base, folder / "certs", place)
        with contextlib.suppress(AmaqError):
            attack(leader)
            leader.transport.receive(Address(1, "activation"))  # until it is told
        leader.transport.close()
        memory[name] = _peak_mib(follower.pid)
    leader = Leader(base, folder / "certs", place)
    leader.agreed(notes.Restore(step=0), notes.Save(step=0), notes.End(step=0))
    for _ in range(3):
        leader.transport.receive(FROM)
    status = RunFolder(folder / "honest" / "server").run["status"]
    leader.transport.close()
    for frames, _ in RAW.values():
        _stream(folder / "certs", place, frames)
    results = dict(zip([*LIES, "honest", *RAW], ended(follower), strict=True))
    (code, _, _) = results.pop("honest")
    return Found(
        {name: (end, err) for name, (end, _, err) in results.items()},
        memory["flood"] - memory["address"],
        len(list(folder.glob("run-*"))),
        (status, code),
    )


def _peak_mib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


@pytest.mark.parametrize("name", [*LIES, *RAW])
def test_a_hostile_leader_ends_its_follower_with_one_line(found: Found, name: str) -> None:
    expected, words = LIES[name][1:] if name in LIES else (10, RAW[name][1])
    code, err = found.ends[name]
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, len(errors)) == (expected, 1), err
    assert words in errors[0]


def test_a_flood_takes_no_more_memory_than_was_agreed(found: Found) -> None:
    assert 0 <= found.flood_mib < 200  # of a thousand that were sent
    # Those that had agreed and got an order; the others left nothing.
    assert found.num_runs == 5


def test_a_follower_is_done_before_it_says_so(found: Found) -> None:
    """Its leader is, too, from then on, and no start with --resume could mend what is not."""
    assert found.status == ("done", 0)
