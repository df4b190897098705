"""`certs`: what is written, for whom it can be read, and that nothing is ever overwritten."""

import json
import shutil
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

from amaqctl import extras
from amaqctl.certs.authority import make_authority, make_party
from amaqctl.certs.folder import read_credentials
from amaqctl.certs.inspection import check_credentials
from amaqctl.cli.main import app
from amaqctl.errors import InputError
from amaqctl.health import examination


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def certs(*arguments):
    return CliRunner().invoke(app, ["certs", *arguments], env={"COLUMNS": "200"})


def _files(folder):
    return {
        path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_init_and_client_write_what_each_party_needs(folder):
    done = certs("init", "--host", "10.0.0.7", "--host", "gpu.example.org")
    assert done.exit_code == 0, done.stderr
    assert certs("client", "alice", "--quiet").stdout == "certs/alice\n"
    assert _files(folder / "certs") == {
        "alice/alice.crt": 0o644, "alice/alice.key": 0o600, "alice/ca.crt": 0o644,
        "ca/ca.crt": 0o644, "ca/ca.key": 0o600,
        "server/ca.crt": 0o644, "server/server.crt": 0o644, "server/server.key": 0o600,
    }  # fmt: skip
    for name in ("alice", "server"):
        check_credentials(read_credentials(folder / "certs" / name, name), name)
    certificate = x509.load_pem_x509_certificate((folder / "certs/server/server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["server", "gpu.example.org"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["10.0.0.7"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert certificate.public_key().curve.name == "secp256r1"


def test_a_umask_that_shares_all_shares_no_key(folder):
    import os

    before = os.umask(0)
    try:
        certs("init")
    finally:
        os.umask(before)
    modes = _files(folder / "certs")
    assert (modes["ca/ca.key"], modes["server/server.key"]) == (0o600, 0o600)
    assert modes["server/server.crt"] == 0o666


def test_nothing_is_overwritten(folder):
    certs("init")
    certs("client", "alice")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for arguments, where in ((["init"], "certs"), (["client", "alice"], "certs/alice")):
        done = certs(*arguments)
        assert done.exit_code == 4
        assert done.stderr.startswith(f"error: {where}: is there already, and nothing is overwrit")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_show_lists_each_certificate_once(folder):
    certs("init", "--days", "90")
    certs("client", "alice", "--days", "10")
    done = certs("show", "--json")
    document = json.loads(done.stdout)
    found = {c["name"]: c for c in document["data"]["certificates"]}
    assert list(found) == ["alice", "amaqctl authority", "server"]
    assert (found["alice"]["names"], found["amaqctl authority"]["is_authority"]) == (
        ["alice"],
        True,
    )
    expires = datetime.fromisoformat(found["server"]["expires"])
    assert abs(expires - datetime.now(UTC) - timedelta(days=90)) < timedelta(minutes=5)
    assert document["warnings"] == found["alice"]["warnings"]
    assert document["warnings"][0].startswith("certs/alice/alice.crt: expires on ")
    assert document["warnings"][0].endswith(", in 9 days")
    assert all(len(bytes.fromhex(c["sha256"])) == 32 for c in found.values())
    table = certs("show", "certs/server").stdout
    assert "signing" in table
    assert found["server"]["sha256"][:16] in table


def test_show_warns_of_keys_that_others_may_read(folder):
    certs("init")
    (folder / "certs/server/server.key").chmod(0o640)
    words = "warning: certs/server/server.key: others may read this key (mode 0640): chmod 600 it"
    assert words in certs("show").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["client", "alice"], 4, "certs/ca/ca.crt: no such file"),
        (["client", "../alice"], 2, "'../alice' is no name of a party"),
        (["init", "--name", "Alice"], 2, "'Alice' is no name of a party"),
        (["init", "--days", "0"], 2, "--days"),
        (["show"], 4, "certs: no certificates there"),
        (["show", "nowhere"], 4, "nowhere: no certificates there"),
    ],
)
def test_mistakes_are_told_in_one_line(folder, arguments, code, words):
    done = certs(*arguments)
    assert done.exit_code == code
    assert words in done.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ca, other: (ca / "ca.key").write_text("x"), "certs/ca: no authority: "),
        (lambda ca, other: shutil.copy(other / "ca.key", ca), "the key is not that of the certif"),
        (lambda ca, other: (ca / "ca.crt").unlink(), "certs/ca/ca.crt: no such file"),
    ],
)
def test_a_damaged_authority_signs_nothing(folder, change, words):
    certs("init")
    certs("init", "--dir", "others")
    change(folder / "certs/ca", folder / "others/ca")
    done = certs("client", "alice")
    assert done.exit_code == 4
    assert words in done.stderr
    assert not (folder / "certs/alice").exists()


def test_the_name_of_the_authority_is_taken(folder):
    certs("init")
    done = certs("client", "ca")
    assert (done.exit_code, "'ca' is the authority's own folder" in done.stderr) == (4, True)
    assert certs("init", "--dir", "more", "--name", "ca").exit_code == 4
    assert not (folder / "more").exists()


def test_no_certificate_outlives_its_authority(folder):
    make_authority(folder / "certs", "server", [], 3650)
    make_party(folder / "certs", "alice", [], 10**5)
    ends = [
        x509.load_pem_x509_certificate((folder / "certs" / file).read_bytes()).not_valid_after_utc
        for file in ("ca/ca.crt", "alice/alice.crt")
    ]
    assert ends[0] == ends[1]


def test_without_the_extra_its_name_is_told(folder, monkeypatch):
    def fail(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(extras.importlib, "import_module", fail)
    done = certs("init")
    assert done.exit_code == 4
    assert "amaqctl certs: needs cryptography" in done.stderr
    assert "amaqctl[grpc]" in done.stderr


def test_doctor_names_the_expiry_of_a_partys_certificates(folder):
    make_authority(folder / "certs", "server", [], 30.5)
    make_party(folder / "certs", "soon", [], 5)
    make_party(folder / "certs", "late", [], -0.5)
    found = {f.name: f for f in examination.certificates_in(folder / "certs")}
    states = {name: str(finding.state) for name, finding in found.items()}
    assert states == {
        "certificate amaqctl authority": "ok", "certificate server": "ok",
        "certificate soon": "warning", "certificate late": "fault",
    }  # fmt: skip
    assert found["certificate server"].text.startswith(
        f"{folder}/certs/server/server.crt expires on"
    )
    assert "expired on" in found["certificate late"].text
    assert examination.certificates_in(None) == []
    with pytest.raises(InputError, match="no certificates there"):
        examination.certificates_in(folder / "none")
