"""Who is not let in, and in which words; and that the session of others does not notice."""

import shutil
import socket
import ssl
import threading
from concurrent import futures

import grpc
import pytest
from transport_parts import BACK, THERE, Relay, Told, close_both, free_port, grpc_party

from amaqctl import extras
from amaqctl.certs import inspection
from amaqctl.certs.authority import make_authority, make_party
from amaqctl.errors import InputError, TransportError
from amaqctl.transports.frames import MAX_FRAME_BYTES, Frame, Kind, Opening
from amaqctl.transports.grpc_stream import GrpcTransport
from amaqctl.transports.party_settings import PartySettings


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """``ours`` with an expired party, and ``theirs`` with the same names."""
    root = tmp_path_factory.mktemp("refusals")
    for authority in ("ours", "theirs"):
        make_authority(root / authority, "server", ["localhost"], 30)
        make_party(root / authority, "client", [], 30)
    make_party(root / "ours", "eve", [], 30)
    make_party(root / "ours", "late", [], -0.5)
    return root


@pytest.fixture
def told():
    """What the server is told."""
    return Told()


@pytest.fixture
def open_session(certificates, told):
    """A server and a client in the middle of a session, and the server's place."""
    server = grpc_party(certificates / "ours", "server", listen="127.0.0.1:0", told=told)
    place = f"127.0.0.1:{server.port}"
    client = grpc_party(certificates / "ours", "client", connect={"server": place})
    client.send(THERE, b"one")
    assert server.receive(THERE) == b"one"
    yield place
    client.send(THERE, b"two")
    server.send(BACK, b"three")
    assert (server.receive(THERE), client.receive(BACK)) == (b"two", b"three")
    close_both(client, server)


def _pem(folder, name):
    return [(folder / name / f).read_bytes() for f in ("ca.crt", f"{name}.key", f"{name}.crt")]


def _stranger(place, folder, name, frames):
    """The code with which a stream of ``frames`` from a certificate of ``folder`` ends."""
    credentials = grpc.ssl_channel_credentials(*_pem(folder, name))
    options = [("grpc.ssl_target_name_override", "server"), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(place, credentials, options) as channel:
        call = channel.stream_stream("/amaqctl.Party/Stream")(iter(frames), timeout=20)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
    return caught.value.code().name, caught.value.details()


def test_a_name_that_is_not_on_the_list(open_session, certificates, told):
    for _ in range(3):
        code, words = _stranger(open_session, certificates / "ours", "eve", [])
    assert code == "PERMISSION_DENIED"
    assert told == [("connected", "is connected"), ("refused", words)]
    assert words == "'eve' is not on the list of those that server lets in"


@pytest.mark.parametrize(
    ("frame", "code", "words"),
    [
        (Opening("eve", bytes(16), 0).to_bytes(), "PERMISSION_DENIED", "says that it is another"),
        (Opening("server", bytes(16), 0).to_bytes(), "PERMISSION_DENIED", "another party"),
        (Opening("client", bytes(16), 0, True).to_bytes(), "FAILED_PRECONDITION", "started anew"),
        (Frame(Kind.BEAT).to_bytes(0), "INVALID_ARGUMENT", "begins with a frame of kind BEAT"),
        (b"GET / HTTP/1.1", "INVALID_ARGUMENT", "a frame of 14 bytes"),
        (bytes(MAX_FRAME_BYTES + 1), "RESOURCE_EXHAUSTED", "larger than max"),
    ],
)
def test_a_first_frame_that_is_not_legal(open_session, certificates, frame, code, words):
    found = _stranger(open_session, certificates / "ours", "client", [frame])
    assert found[0] == code
    assert words in found[1]


@pytest.mark.parametrize("attack", ["plain", "no certificate", "foreign authority", "expired"])
def test_a_connection_that_no_certificate_of_ours_vouches_for(open_session, certificates, attack):
    host, port = open_session.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 10) as connection:
        if attack == "plain":
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100))
            assert connection.recv(100).count(b"amaqctl") == 0
            return
        context = ssl.create_default_context(cafile=certificates / "ours/server/ca.crt")
        context.set_alpn_protocols(["h2"])
        folder, name = {
            "no certificate": (None, None),
            "foreign authority": ("theirs", "client"),
            "expired": ("ours", "late"),
        }[attack]
        if folder:
            place = certificates / folder / name
            context.load_cert_chain(place / f"{name}.crt", place / f"{name}.key")
        with context.wrap_socket(connection, server_hostname="server") as wrapped:
            assert wrapped.recv(1) == b""


def _refused(certificates, folder, place, name="client", **own):
    """What a party of ours is told that may not come."""
    told = Told()
    party = grpc_party(certificates / folder, name, connect={"server": place}, told=told, **own)
    with pytest.raises(TransportError) as caught:
        party.receive(BACK)
    party.close()
    assert (caught.value.error_id, told.states) == ("PEER-REFUSED", ["failed"])
    return str(caught.value)


def test_a_party_that_is_not_let_in_is_told_so(open_session, certificates):
    words = _refused(
        certificates, "ours", open_session, "eve", holders=("eve", "server"), allowed=()
    )
    expected = "refuses this party: 'eve' is not on the list of those that server lets in"
    assert words == f"party server: {expected}"


def test_a_party_of_another_authority_is_told_so(open_session, certificates):
    words = _refused(certificates, "theirs", open_session)
    assert "certificate verify failed" in words or "not taken: " in words
    assert words.startswith(f"party server: certificate of {open_session} not taken: ")


@pytest.mark.parametrize(("authority", "name"), [("theirs", "client"), ("ours", "late")])
def test_a_certificate_that_the_other_side_does_not_take(
    open_session, certificates, monkeypatch, tmp_path, authority, name
):
    monkeypatch.setattr(inspection, "check_credentials", lambda *_: None)
    (tmp_path / "client").mkdir()
    for suffix in ("crt", "key"):
        shutil.copy(
            certificates / authority / name / f"{name}.{suffix}",
            tmp_path / "client" / f"client.{suffix}",
        )
    shutil.copy(certificates / "ours/client/ca.crt", tmp_path / "client")
    party = grpc_party(tmp_path, "client", connect={"server": open_session})
    words = "does not take this party's certificate: another authority, or expired"
    with pytest.raises(TransportError, match=f"party server: {open_session} {words}"):
        party.receive(BACK)
    party.close()


def test_a_server_under_another_name(certificates):
    server = grpc_party(
        certificates / "ours", "client", holders=("server", "client"), listen="127.0.0.1:0"
    )
    words = _refused(certificates, "ours", f"127.0.0.1:{server.port}")
    assert "Hostname mismatch, certificate is not valid for 'server'" in words
    server.close()


def test_one_who_is_let_in_cannot_take_the_streams_of_another(certificates):
    server = grpc_party(
        certificates / "ours", "server", listen="127.0.0.1:0", allowed=("client", "eve")
    )
    relay = Relay(server.port)
    told = Told()
    place = {"server": f"127.0.0.1:{relay.port}"}
    client = grpc_party(certificates / "ours", "client", connect=place, told=told)
    client.send(THERE, b"one")
    assert server.receive(THERE) == b"one"
    credentials = grpc.ssl_channel_credentials(*_pem(certificates / "ours", "eve"))
    options = [("grpc.ssl_target_name_override", "server")]
    never = threading.Event()
    with grpc.secure_channel(f"127.0.0.1:{server.port}", credentials, options) as channel:
        stream = channel.stream_stream("/amaqctl.Party/Stream")
        calls = [stream(iter(never.wait, True)) for _ in range(100)]
        codes = []
        for call in calls[-20:]:
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
            codes.append(caught.value.code().name)
        relay.cut()
        told.wait_for("held")
        client.send(THERE, b"two")
        assert server.receive(THERE) == b"two"
        assert set(codes) <= {"ABORTED", "RESOURCE_EXHAUSTED"}
        never.set()
        for call in calls:
            call.cancel()
    close_both(client, server)
    relay.stop()


def _listening(answer):
    """A port at which one other program answers each connection."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                answer(connection)

    threading.Thread(target=serve, daemon=True).start()
    return listening, f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_port_at_which_something_else_answers(certificates):
    listening, place = _listening(lambda c: (c.recv(100), c.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")))
    assert _refused(certificates, "ours", place) == f"party server: {place} speaks no TLS"
    listening.close()


def test_a_host_that_does_not_exist(certificates):
    words = _refused(certificates, "ours", "no-such-host.invalid:4040")
    assert words == "party server: the host 'no-such-host.invalid' is unknown"


def test_another_service_behind_the_same_authority(certificates):
    server = grpc.server(futures.ThreadPoolExecutor(1))
    authority, key, certificate = _pem(certificates / "ours", "server")
    port = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)], authority, True)
    )
    server.start()
    words = _refused(certificates, "ours", f"127.0.0.1:{port}")
    assert words == "party server: something else than amaqctl listens there"
    server.stop(0).wait()


def test_a_port_in_use(open_session, certificates):
    with pytest.raises(
        InputError, match=f"{open_session}: cannot be listened at: in use"
    ) as caught:
        grpc_party(certificates / "ours", "server", listen=open_session)
    assert caught.value.error_id == "INPUT-PORT"


@pytest.mark.parametrize(
    ("name", "own", "words"),
    [
        ("client", {"connect": {}}, "nothing says how server and client find each other"),
        ("server", {"listen": "127.0.0.1:0", "allowed": ("eve",)}, "client holds a stage but is"),
        ("late", {"holders": ("late", "server")}, "certificate of 'late': it expired on 20"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_opened(
    certificates, name, own, words
):
    with pytest.raises(InputError, match=words):
        grpc_party(certificates / "ours", name, **own)


def test_without_certificates_nobody_is_let_in():
    party = PartySettings(name="client", holders=("client", "server"))
    with pytest.raises(InputError, match="no certificates are given, and without them nobody"):
        GrpcTransport(GrpcTransport.Config(), party)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda mine, theirs: (mine / "client.key").unlink(), r"client\.key: no such file"),
        (
            lambda mine, theirs: shutil.copy(theirs / "client.key", mine),
            "certificate of 'client': the key is that of another certificate",
        ),
        (
            lambda mine, theirs: shutil.copy(theirs / "ca.crt", mine),
            "the authority in ca.crt has not signed it",
        ),
        (lambda mine, theirs: (mine / "client.crt").write_text("-----"), "no certificate: "),
        (lambda mine, theirs: (mine / "client.key").write_text("x"), "its key cannot be read: "),
    ],
)
def test_damaged_credentials_are_named(certificates, tmp_path, change, words):
    shutil.copytree(certificates / "ours/client", tmp_path / "client")
    change(tmp_path / "client", certificates / "theirs/client")
    with pytest.raises(InputError, match=words) as caught:
        grpc_party(tmp_path, "client", connect={"server": f"127.0.0.1:{free_port()}"})
    assert caught.value.error_id == "INPUT-CERTIFICATE"


def test_a_key_that_others_may_read_is_warned_of(certificates, tmp_path):
    shutil.copytree(certificates / "ours/server", tmp_path / "server")
    (tmp_path / "server/server.key").chmod(0o644)
    told = Told()
    grpc_party(tmp_path, "server", listen="127.0.0.1:0", told=told).close()
    key = tmp_path / "server/server.key"
    words = f"warning: {key}: others may read this key (mode 0644): chmod 600 it"
    assert told[0] == ("waiting", words)


@pytest.mark.parametrize("module", ["grpc", "cryptography"])
def test_without_the_extra_its_name_is_told(certificates, monkeypatch, module):
    def fail(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(
        extras.importlib, "import_module", lambda name: fail(name) if name == module else None
    )
    with pytest.raises(InputError, match=f"transport 'grpc': needs {module}") as caught:
        grpc_party(certificates / "ours", "server", listen="127.0.0.1:0")
    assert "the extra amaqctl[grpc]" in caught.value.hint
