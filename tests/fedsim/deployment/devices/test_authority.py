"""Keys and certificates: read by Flower and by Python's TLS, and never overwritten."""

import argparse
import json
import ssl
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from flwr.cli.supernode.register import try_load_public_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

from fedsim.deployment.devices.authority import Authority
from fedsim.deployment.devices.command import main

HOSTS = ["192.168.1.10", "fd00::10", "lab.example.org"]


@pytest.fixture
def lab(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "lab", HOSTS, ["pi1", "pi2"])


def files(folder: Path) -> dict[str, bytes]:
    """What is in a folder, with permissions."""
    return {
        f"{path.relative_to(folder)} {stat.S_IMODE(path.stat().st_mode):o}": path.read_bytes()
        if path.is_file()
        else b""
        for path in sorted(folder.rglob("*"))
    }


def shake_hands(server: Path, trusted: Path, host: str) -> str | None:
    """A real TLS handshake, with the checks that are Python's default from 3.13 on; what the client objects to."""
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(server / "server.pem", server / "server.key")
    ours = ssl.create_default_context(cafile=trusted)
    ours.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ours.wrap_bio(to_client, to_server, server_hostname=host)
    answering = theirs.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    assert client.getpeercert()
    return None


@pytest.mark.parametrize("host", [*HOSTS, "localhost", "127.0.0.1", "::1"])
def test_a_device_trusts_the_server_under_each_of_its_hosts(lab: Authority, host: str) -> None:
    assert shake_hands(lab.folder, lab.folder / "devices" / "pi1" / "ca.crt", host) is None


def test_a_device_trusts_no_other_host_and_no_other_authority(lab: Authority, tmp_path: Path) -> None:
    assert "mismatch" in str(shake_hands(lab.folder, lab.folder / "ca.crt", "192.168.1.11"))
    other = Authority.create(tmp_path / "other", HOSTS)
    assert "issuer" in str(shake_hands(lab.folder, other.folder / "ca.crt", HOSTS[0]))
    lab.server.verify_directly_issued_by(lab.root)


def test_flower_reads_the_keys_of_a_device(lab: Authority) -> None:
    read = {}
    for name in ("pi1", "pi2"):
        folder = lab.folder / "devices" / name
        options = argparse.Namespace(auth_supernode_private_key=str(folder / "key"), auth_supernode_public_key=None)
        keys = _try_setup_client_authentication(options)
        assert keys is not None
        assert isinstance(keys[0].curve, ec.SECP384R1)
        read[name] = try_load_public_key(folder / "key.pub")
        assert public_key_to_bytes(keys[1]) == read[name]
    assert read["pi1"] != read["pi2"]


def test_only_the_owner_reads_private_keys(lab: Authority) -> None:
    assert stat.S_IMODE(lab.folder.stat().st_mode) == 0o700
    assert set(files(lab.folder)) == {
        *("ca.crt 644", "ca.key 600", "server.pem 644", "server.key 600", "devices 700"),
        *("server.env 644", "start.sh 755", "fedsim-superlink.service 644"),
        *(
            f"devices/{name}{file}"
            for name in ("pi1", "pi2")
            for file in (
                *(" 700", "/key 600", "/key.pub 644", "/ca.crt 644"),
                *("/device.env 644", "/start.sh 755", "/fedsim-supernode.service 644"),
            )
        ),
    }


def test_validity_is_what_the_operator_says(tmp_path: Path) -> None:
    lab = Authority.create(tmp_path / "lab", HOSTS, ca_days=100, server_days=100)
    now = datetime.now(UTC)
    for certificate in (lab.root, lab.server):
        assert certificate.not_valid_before_utc < now - timedelta(hours=23)
        assert abs(certificate.not_valid_after_utc - now - timedelta(days=100)) < timedelta(minutes=5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["init", "lab", "--host", "10.0.0.1"], "lab exists already: name a new folder"),
        (["init", "new", "--host", "10.0.0.1", "--device", "pi 1"], "device 'pi 1' is not allowed"),
        (["init", "new", "--host", "10.0.0.1", "--device", "../pi"], "device '../pi' is not allowed"),
        (["init", "new", "--host", "10.0.0.1", "--device", "a", "--device", "a"], "--device a is given twice"),
        (["init", "new", "--host", "10.0.0.1:8000"], "--host '10.0.0.1:8000' is not allowed"),
        (["init", "new", "--host", "192.168.1.300"], "--host '192.168.1.300' is not allowed"),
        (["init", "new", "--host", "0.0.0.0"], "--host '0.0.0.0' is not allowed"),
        (["init", "new", "--host", ""], "--host '' is not allowed"),
        (["init", "new", "--host", "a", "--ca-days", "0"], "--ca-days 0 is not allowed: it is from 1 to 36500"),
        (["init", "new", "--host", "a", "--ca-days", "9", "--server-days", "10"], "--server-days 10 is not allowed"),
        (["add", "lab", "pi1"], "exists already"),
        (["add", "lab", "-pi"], "arguments"),
        (["add", "nowhere", "pi1"], "nowhere has no ca.crt"),
        (["remove", "lab", "pi3"], "pi3 is no device of lab: there are pi1, pi2."),
        (["renew", "lab", "--server-days", "5000"], "--server-days 5000 is not allowed: it is from 1 to 3650"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_refused_and_nothing_changes(
    lab: Authority, words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = lab.folder.parent
    monkeypatch.chdir(folder)
    before = files(folder)
    try:
        status = main(words)
    except SystemExit as ended:  # argparse
        status = int(ended.code or 0)
    printed = capsys.readouterr()
    assert status == 2
    assert sentence in printed.err
    assert not printed.out
    assert files(folder) == before


@pytest.mark.parametrize(
    ("file", "words", "sentence"),
    [
        ("ca.crt", ["list", "lab"], "ca.crt is damaged or from elsewhere: put back"),
        ("ca.crt", ["renew", "lab"], "ca.crt is damaged or from elsewhere: put back"),
        ("server.pem", ["list", "lab"], "server.pem is damaged or from elsewhere: put back"),
        ("ca.key", ["renew", "lab"], "ca.key is damaged or from elsewhere: put back"),
        ("server.key", ["renew", "lab"], "server.key is damaged or from elsewhere: put back"),
    ],
)
@pytest.mark.parametrize(
    "contents", [b"", b"\xff\x00", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_damaged_file_is_named(
    *,
    lab: Authority,
    file: str,
    words: list[str],
    sentence: str,
    contents: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(lab.folder.parent)
    (lab.folder / file).write_bytes(contents)
    before = files(lab.folder)
    assert main(words) == 2
    assert_one_sentence(capsys, sentence)
    assert files(lab.folder) == before


def test_a_key_with_a_password_and_files_of_another_authority_are_refused(
    lab: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Authority.create(tmp_path / "other", HOSTS).folder
    key, certificate = (lab.folder / "ca.key").read_bytes(), (lab.folder / "ca.crt").read_bytes()
    secret = load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    (lab.folder / "ca.key").write_bytes(secret)
    assert main(["renew", str(lab.folder)]) == 2
    assert_one_sentence(capsys, "ca.key is damaged or from elsewhere")
    (lab.folder / "ca.key").write_bytes((other / "ca.key").read_bytes())
    assert main(["renew", str(lab.folder)]) == 2
    assert_one_sentence(capsys, "ca.key is not the key of ca.crt")
    (lab.folder / "server.pem").write_bytes(certificate)  # a certificate, but of no host
    assert main(["list", str(lab.folder)]) == 2
    assert_one_sentence(capsys, "server.pem is damaged or from elsewhere")


@pytest.mark.parametrize("words", [["init", "a file/lab", "--host", "a"], ["add", "lab", "pi3"], ["renew", "lab"]])
def test_what_cannot_be_written_is_said_in_one_sentence(
    lab: Authority, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not by permissions, which mean nothing to root: there are files where folders should be, and the reverse."""
    monkeypatch.chdir(lab.folder.parent)
    Path("a file").touch()
    (lab.folder / "devices").rename("devices elsewhere")
    (lab.folder / "devices").touch()
    (lab.folder / ".server.pem.new").mkdir()
    assert main(words) == 2
    assert_one_sentence(capsys, f"{words[1]} cannot be used (")


def assert_one_sentence(capsys: pytest.CaptureFixture[str], sentence: str) -> None:
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("error: ")
    assert sentence in printed.err
    assert printed.err.count("\n") == 1


def test_a_device_is_added_and_removed(lab: Authority, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(lab.folder)
    assert main(["add", str(lab.folder), "pi3"]) == 0
    added = lab.folder / "devices" / "pi3"
    assert f"flwr supernode register {added / 'key.pub'} lab" in capsys.readouterr().out
    assert (added / "ca.crt").read_bytes() == (lab.folder / "ca.crt").read_bytes()
    (added / "node.json").write_text(json.dumps({"success": True, "node-id": 18214876448400083967}))
    assert main(["list", str(lab.folder)]) == 0
    listed = capsys.readouterr().out
    assert "device pi1: no node.json" in listed
    assert "device pi3: registered as 18214876448400083967" in listed
    assert main(["remove", str(lab.folder), "pi3"]) == 0
    assert "flwr supernode unregister 18214876448400083967 lab" in capsys.readouterr().out
    assert files(lab.folder) == before
    assert main(["remove", str(lab.folder), "pi2"]) == 0
    assert "flwr supernode unregister NODE_ID lab\nNODE_ID stands in" in capsys.readouterr().out
    assert not (lab.folder / "devices" / "pi2").exists()


@pytest.mark.parametrize("answer", ["", "[]", '{"success": false}', "{"])
def test_a_registration_that_failed_is_none(lab: Authority, answer: str) -> None:
    """``flwr ... --format json | tee node.json`` leaves the file in any case."""
    (lab.folder / "devices" / "pi1" / "node.json").write_text(answer)
    assert [device.node_id for device in lab.devices] == [None, None]


def test_renewing_changes_the_servers_certificate_and_nothing_else(
    lab: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    before, old = files(lab.folder), lab.server
    assert main(["renew", str(lab.folder), "--server-days", "30"]) == 0
    assert {name for name, data in files(lab.folder).items() if before[name] != data} == {"server.pem 644"}
    assert lab.server.serial_number != old.serial_number
    for host in HOSTS:
        assert shake_hands(lab.folder, lab.folder / "ca.crt", host) is None
    assert "SUPERLINK" not in capsys.readouterr().out
    assert main(["renew", str(lab.folder), "--host", "10.0.0.1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[2:] == [
        "  HOST=10.0.0.1",
        "  SUPERLINK=10.0.0.1:8000",
        "and in device.env on pi1, pi2, and in their folders here:",
        "  SUPERLINK=10.0.0.1:8000",
    ]
    assert shake_hands(lab.folder, lab.folder / "ca.crt", "10.0.0.1") is None
    assert shake_hands(lab.folder, lab.folder / "ca.crt", HOSTS[0]) is not None


def test_a_folder_in_quotes_is_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert main(["init", "~/lab", "--host", "10.0.0.1"]) == 0
    assert (tmp_path / "home" / "lab" / "ca.key").is_file()
    assert not (tmp_path / "~").exists()
    capsys.readouterr()
    assert main(["list", "~nobody_here/lab"]) == 2
    assert_one_sentence(capsys, "the folder=~nobody_here/lab names a home folder that is not here")


def test_the_command_line_works_without_torch(tmp_path: Path) -> None:
    """An operator's machine need not have it; what it prints next can be typed."""
    (tmp_path / "torch.py").write_text("raise ImportError('not here')")
    command = [sys.executable, "-m", "fedsim.devices", "init", "my lab", "--host", HOSTS[1], "--device", "pi1"]
    root = Path(__file__).parents[4]
    path = {"PYTHONPATH": f"{tmp_path}:{root}"}
    done = subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "flower-superlink --host fd00::10 --port 8000 --ssl-certfile 'my lab/server.pem'" in done.stdout
    assert 'address = "[fd00::10]:8000"' in done.stdout
    assert "flwr supernode register 'my lab/devices/pi1/key.pub' lab" in done.stdout
    assert set(files(tmp_path / "my lab")) >= {"ca.key 600", "devices/pi1/key 600"}
