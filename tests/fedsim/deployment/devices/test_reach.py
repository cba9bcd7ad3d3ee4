"""Why a device does not reach its server: each reason is made to happen on loopback, and has a sentence of its own."""

import socket
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

from fedsim.core.errors import UserError
from fedsim.deployment.devices import certificates, checks, reach
from fedsim.deployment.devices.authority import Authority
from fedsim.deployment.devices.reach import Server
from tests.fedsim.deployment.devices.lab import free_port
from tests.fedsim.deployment.devices.tls import serving


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return Authority.create(tmp_path / "lab", ["lab.example.org"]).folder


def fault(address: str, root: Path) -> str:
    with pytest.raises(UserError) as raised:
        Server.of(address, root).check()
    sentence = str(raised.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def made(folder: Path, monkeypatch: pytest.MonkeyPatch, days: float, ca_days: int) -> Path:
    """A folder of an authority and a server certificate of 10 days, made when the clock was ``days`` ahead."""

    class Then(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Then":
            return cls.fromtimestamp((datetime.now(tz) + timedelta(days=days)).timestamp(), tz)

    for module in (certificates, checks):
        monkeypatch.setattr(module, "datetime", Then)
    Authority.create(folder, ["lab.example.org"], ca_days=ca_days, server_days=10)
    monkeypatch.undo()
    return folder


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_that_is_trusted_answers(lab: Path, host: str) -> None:
    with serving(lab) as port:
        said = Server.of(f"{host}:{port}", lab / "ca.crt").check()
    valid = Authority(lab).server.not_valid_after_utc
    assert said == f"{host}:{port} answers, with a certificate valid until {valid:%Y-%m-%d}"


@pytest.mark.parametrize("address", ["", "lab", "lab:", ":8000", "lab:0", "lab:65536", "lab:http"])
def test_an_address_that_is_none(address: str, lab: Path) -> None:
    assert f"SUPERLINK={address!r} is not possible: write the server's HOST:PORT in device.env" in fault(address, lab)


def test_a_name_that_is_not_known(lab: Path) -> None:
    sentence = fault("no-such-host.invalid:8000", lab / "ca.crt")
    assert "cannot be reached, the name no-such-host.invalid is not known here (" in sentence


@pytest.mark.parametrize("host", ["lab..x", ".lab", "l" * 64])
def test_a_name_that_can_be_none(host: str, lab: Path) -> None:
    sentence = fault(f"{host}:8000", lab / "ca.crt")
    assert sentence == (f"{host}:8000 cannot be reached, {host} is no name of a host: correct SUPERLINK in device.env.")


def test_nobody_listens(lab: Path) -> None:
    port = free_port()
    sentence = fault(f"127.0.0.1:{port}", lab / "ca.crt")
    assert sentence.startswith(f"127.0.0.1:{port} cannot be reached, the connection is refused: start the SuperLink")


def test_nobody_answers(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        sentence = fault(f"127.0.0.1:{port}", lab / "ca.crt")
        for each in waiting:
            each.close()
    assert "cannot be reached, nobody answers within 0.3 seconds: look whether the server is on" in sentence


def test_a_server_that_takes_the_connection_and_says_nothing(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sentence = fault(f"127.0.0.1:{silent.getsockname()[1]}", lab / "ca.crt")
    assert "takes the connection and says nothing for 0.3 seconds" in sentence


def test_a_server_without_tls(lab: Path) -> None:
    with serving(None) as port:
        sentence = fault(f"127.0.0.1:{port}", lab / "ca.crt")
    assert sentence.startswith(f"127.0.0.1:{port} answers, but not by TLS (")
    with serving(None, says=b"") as port:
        assert "answers, but not by TLS" in fault(f"127.0.0.1:{port}", lab / "ca.crt")


def test_a_server_of_something_else(lab: Path) -> None:
    with serving(lab, says=b"220 mail.example.org\r\n\r\n") as port:
        sentence = fault(f"127.0.0.1:{port}", lab / "ca.crt")
    assert "answers, but not by HTTP: another service has this port" in sentence


def test_a_server_of_another_authority(lab: Path, tmp_path: Path) -> None:
    other = Authority.create(tmp_path / "other", ["lab.example.org"]).folder
    with serving(other) as port:
        sentence = fault(f"127.0.0.1:{port}", lab / "ca.crt")
    assert f"has a certificate that {lab / 'ca.crt'} does not vouch for (" in sentence
    assert "): copy ca.crt from the folder of the server" in sentence


def test_a_server_whose_certificate_is_for_another_host(lab: Path) -> None:
    with serving(lab, host="127.0.0.2") as port:
        sentence = fault(f"127.0.0.2:{port}", lab / "ca.crt")
    assert "has a certificate for lab.example.org, localhost, 127.0.0.1, ::1 and not for 127.0.0.2: write" in sentence


def test_certificates_that_have_ended_and_that_are_not_valid_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = made(tmp_path / "ended", monkeypatch, -30, 3650)
    with serving(ended) as port:
        sentence = fault(f"127.0.0.1:{port}", ended / "ca.crt")
    day = Authority(ended).server.not_valid_after_utc
    assert sentence.startswith(f"a certificate has ended on {day:%Y-%m-%d}, that of 127.0.0.1:{port}, and this device")
    assert "set the clock (timedatectl)" in sentence
    to_come = made(tmp_path / "to_come", monkeypatch, 30, 3650)
    with serving(to_come) as port:
        sentence = fault(f"127.0.0.1:{port}", to_come / "ca.crt")
    assert "has a certificate that is not valid until" in sentence
    assert sentence.endswith("UTC: set the clock (timedatectl).")


def test_an_authority_that_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose server has a certificate that would still hold."""
    old = made(tmp_path / "old", monkeypatch, -30, 10)
    folder = Authority.create(tmp_path / "new", ["lab.example.org"]).folder
    ca_key = certificates.load_key((old / "ca.key").read_bytes())
    key = certificates.load_key((folder / "server.key").read_bytes())
    server = certificates.server_certificate(
        key, certificates.hosts_of(Authority(folder).server), 10, Authority(old).root, ca_key
    )
    (folder / "server.pem").write_bytes(certificates.certificate_bytes(server))
    with serving(folder) as port:
        assert "a certificate has ended, the authority's (ca.crt), and" in fault(f"127.0.0.1:{port}", old / "ca.crt")


@pytest.mark.parametrize(
    ("ahead", "words"),
    [(-60, "60 seconds ahead of"), (-9, "9 seconds ahead of"), (400, "seconds behind"), (-3, None), (290, None)],
)
def test_clocks_that_the_server_would_refuse(ahead: float, words: str | None, lab: Path) -> None:
    """Flower refuses what was signed more than 5 minutes ago, or in more than 5 seconds."""
    assert (reach.AHEAD, reach.BEHIND) == (SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE)
    with serving(lab, ahead=ahead) as port:
        if words is None:
            Server.of(f"127.0.0.1:{port}", lab / "ca.crt").check()
            return
        sentence = fault(f"127.0.0.1:{port}", lab / "ca.crt")
    seconds = abs(ahead)
    assert any(
        f"this device's clock is {near} {words.partition(' ')[2] if words[0].isdigit() else words}" in sentence
        for near in (seconds - 1, seconds, seconds + 1)
    ), sentence
