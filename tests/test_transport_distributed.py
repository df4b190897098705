"""`distributed` with real processes under gloo: names and not ranks, death, silence, the end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from transport_parts import free_port, start_python

from amaqctl.errors import UsageError
from amaqctl.transports.distributed import DistributedTransport
from amaqctl.transports.party_settings import PartySettings

PARTY = """
import os, sys
from transport_parts import *
from amaqctl.errors import AmaqError
from amaqctl.transports.distributed import DistributedTransport

holders = tuple(sys.argv[2].split(","))
told = Told()
try:
    me = DistributedTransport(
        DistributedTransport.Config(silence_seconds=1.0, lease_seconds=float(sys.argv[3]),
                                    timeout_seconds=60.0),
        PartySettings(name=sys.argv[1], holders=holders), LIMITS, told)
except AmaqError as error:
    print(error.error_id, error)
    raise SystemExit(error.exit_code)
print("met", flush=True)

def failing(work):
    try:
        work()
    except AmaqError as error:
        print(error.error_id, error, flush=True)
"""


@pytest.fixture
def launch():
    """Starts parties, one process each, and gives back the processes once they have met."""
    started = []

    def start(*parties, holders="client,server,client", lease=20.0, port=None, num=None):
        port = port or free_port()
        processes = []
        for rank, (name, program) in enumerate(parties):
            environment = {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "RANK": str(rank),
                "WORLD_SIZE": str(num or len(parties)),
            }
            processes.append(
                start_python(PARTY + program, name, holders, str(lease), **environment)
            )
        started.extend(processes)
        return processes

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=30)


def _outputs(processes, expected_codes=None):
    found = [process.communicate(timeout=90) for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == (expected_codes or [0] * len(processes)), found
    return [out.splitlines() for out, _ in found]


CLIENT = """
for number in range(30):
    me.send(ORDER, b"order %d" % number)
    me.send(THERE, bytes([number]) * 1000)
for length in (0, 2**18 - 1, 2**18, 2**18 + 1, 3_000_000):
    me.send(THERE, bytes(length))
print([me.receive(REPLY) for _ in range(30)] == [b"order %d!" % n for n in range(30)])
print([len(me.receive(BACK)) for _ in range(35)])
"""
SERVER = """
orders = [me.receive(ORDER) for _ in range(30)]
for order in orders:
    me.send(REPLY, order + b"!")
print([me.receive(THERE) for _ in range(30)] == [bytes([n]) * 1000 for n in range(30)])
for _ in range(30):
    me.send(BACK, b"x")
for _ in range(5):
    me.send(BACK, me.receive(THERE)[::-1])
"""
END = """
me.close()
print(told.states)
"""


@pytest.mark.parametrize("is_client_first", [True, False])
def test_parties_find_each_other_by_name_and_everything_comes_in_order(launch, is_client_first):
    parties = [("client", CLIENT + END), ("server", SERVER + END)]
    outputs = _outputs(launch(*(parties if is_client_first else parties[::-1])))
    client, server = outputs if is_client_first else outputs[::-1]
    lengths = [1] * 30 + [0, 2**18 - 1, 2**18, 2**18 + 1, 3_000_000]
    ends = str(["connected", "ended"])
    assert client == ["met", "True", str(lengths), ends]
    assert server == ["met", "True", ends]


def test_three_parties_and_the_failure_of_one(launch):
    a = "me.send(Address(2, 'order'), b'go')\nfailing(lambda: me.receive(Address(2, 'reply')))\n"
    b = "print(me.receive(THERE))\nme.send(REPLY, b'now')\nfailing(lambda: me.receive(THERE))\n"
    c = "print(me.receive(Address(2, 'order')))\nme.abort(AmaqError('tired', where='stage 2'))\n"
    parties = [
        ("b", b + "me.close()"),
        ("a", "me.send(THERE, b'first')\nme.receive(REPLY)\n" + a + "me.close()"),
        ("c", c + "me.close()"),
    ]
    outputs = _outputs(launch(*parties, holders="a,b,c"))
    # Whoever hears it first leaves first, and tells the others why.
    assert outputs[2] == ["met", "b'go'"]
    assert outputs[1][1].endswith("failed: stage 2: tired")
    assert outputs[0][1] == "b'first'"
    assert outputs[0][2].startswith("PEER-FAILED party ")
    assert outputs[0][2].endswith("failed: stage 2: tired")


def test_a_program_that_ends_without_closing_fails_to_its_peer(launch):
    outputs = _outputs(
        launch(
            ("client", "failing(lambda: me.receive(BACK))\nme.close()"),
            ("server", "raise SystemExit(3)"),
        ),
        [0, 3],
    )
    words = "PEER-FAILED party server: failed: its program ended without closing the session"
    assert outputs[0] == ["met", words]


def test_a_killed_peer_is_lost_at_once(launch):
    client, server = launch(
        ("client", "failing(lambda: me.receive(BACK))\nprint(told.states)\nme.close()"),
        ("server", "me.receive(THERE)"),
    )
    assert server.stdout.readline() == "met\n"
    server.send_signal(signal.SIGKILL)
    _, words, states = _outputs([client])[0]
    assert words.startswith("PEER-LOST party server: connection lost: ")
    assert states == "['connected', 'lost']"


def test_a_stopped_peer_is_held_and_comes_back(launch):
    client, server = launch(
        (
            "client",
            "told.wait_for('held')\nprint('held', flush=True)\nprint(me.receive(BACK))" + END,
        ),
        ("server", "me.send(BACK, b'back')" + END),
    )
    assert server.stdout.readline() == "met\n"
    server.send_signal(signal.SIGSTOP)
    assert [client.stdout.readline() for _ in range(2)] == ["met\n", "held\n"]
    server.send_signal(signal.SIGCONT)
    assert _outputs([client, server])[0][0] == "b'back'"


def test_a_peer_that_stays_stopped_is_lost_and_the_process_ends(launch):
    client, server = launch(
        ("client", "failing(lambda: me.receive(BACK))\nme.close()\nprint(told.states)"),
        ("server", "me.receive(THERE)"),
        lease=3.0,
    )
    assert server.stdout.readline() == "met\n"
    server.send_signal(signal.SIGSTOP)
    assert _outputs([client])[0] == [
        "met",
        "PEER-LOST party server: not heard of for its lease of 3 s",
        "['connected', 'held', 'lost']",
    ]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("client", "client"), "the processes are client, client where client, server hold"),
        (("client", "server", "server"), "the processes are client, server, server where"),
    ],
)
def test_processes_that_are_not_the_holders_are_told_so(launch, names, words):
    outputs = _outputs(launch(*((name, "") for name in names)), [4] * len(names))
    for (line,) in outputs:
        assert line.startswith(f"INPUT-PARTY transport 'distributed': {words}")


def test_a_process_that_no_launcher_started_is_told_so():
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "MASTER_ADDR")}
    process = subprocess.run(
        [sys.executable, "-c", PARTY, "client", "client,server", "5"],
        env=environment | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 4
    assert process.stdout.startswith("INPUT-LAUNCHER transport 'distributed': no launcher has set")


def test_one_process_alone_needs_no_network():
    with pytest.raises(UsageError, match="joins the processes of several parties"):
        DistributedTransport(DistributedTransport.Config())


def test_a_restart_under_torchrun_meets_anew(tmp_path):
    program = tmp_path / "party.py"
    program.write_text(
        "import os, sys\n"
        "name = 'client' if os.environ['RANK'] == '1' else 'server'\n"
        "sys.argv[1:] = [name, 'client,server,client', '20']\n"
        + PARTY
        + "attempt = os.environ['TORCHELASTIC_RESTART_COUNT']\n"
        "if name == 'client':\n"
        "    me.send(THERE, attempt.encode())\n"
        "else:\n"
        "    print('attempt', me.receive(THERE).decode(), flush=True)\n"
        "    if attempt == '0':\n"
        "        os._exit(1)\n"
        "if name == 'client' and attempt == '0':\n"
        "    failing(lambda: me.receive(BACK))\n"
        "    os._exit(1)\n"
        "me.close()\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node=2", "--max-restarts=1", str(program)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("attempt")]
    assert lines == ["attempt 0", "attempt 1"]


def test_config_is_described():
    fields = DistributedTransport.Config.model_fields
    assert all(field.description for field in fields.values())
    assert PartySettings(name="a", holders=("a", "b")).route.peers == ("b",)
