"""Who may join: a SuperLink with TLS and authentication, and SuperNodes with the right key, another, or none.

What is asserted here is Flower's doing; docs/devices.md tells users to rely on it.
"""

import re
from pathlib import Path

import pytest

from fedsim.deployment.devices.authority import Authority
from tests.fedsim.deployment.devices.lab import HOST, REFUSED, SHUT_OUT, Lab, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.devices]


def test_a_device_with_a_registered_key_is_admitted_and_known_again(lab: Lab) -> None:
    lab.start_superlink()
    node = lab.register("pi1")
    assert lab.nodes() == {node: "registered"}
    for _ in range(2):
        device = lab.start_supernode("pi1", 'partition-id=3 data-dir="/data/site3"')
        assert device.wait_for(r"SuperNode ID: (\d+)")[1] == node
        assert lab.nodes() == {node: "online"}
        assert device.stop() == 0
        assert lab.nodes() == {node: "offline"}


@pytest.mark.parametrize(("key", "reason"), [(True, "Failed to activate SuperNode"), (False, "must be registered")])
def test_a_device_without_a_registered_key_is_refused(key: bool, reason: str, lab: Lab) -> None:
    link = lab.start_superlink()
    node = lab.register("pi1")
    lab.keys.add("stranger")
    device = lab.start_supernode("stranger", key=key)
    assert device.wait() == REFUSED
    assert reason in device.output
    assert "SuperNode ID" not in device.output
    assert re.search(r'"POST /v1/fleet/(activate|register)-node HTTP/1.1" 412', link.output)
    assert lab.nodes() == {node: "registered"}


def test_a_device_that_trusts_another_authority_talks_to_nobody(lab: Lab, tmp_path: Path) -> None:
    link = lab.start_superlink()
    node = lab.register("pi1")
    other = Authority.create(tmp_path / "other", [HOST])
    device = lab.start_supernode("pi1", authority=other.folder / "ca.crt")
    assert device.wait() == REFUSED
    assert "CERTIFICATE_VERIFY_FAILED" in device.output
    assert "/v1/fleet/" not in link.output
    assert lab.nodes() == {node: "registered"}
    lab.start_supernode("pi1").wait_for(f"SuperNode ID: {node}")  # nothing else was wrong


def test_plain_http_is_refused_by_a_superlink_with_tls(lab: Lab) -> None:
    link = lab.start_superlink()
    node = lab.register("pi1")
    lab.connect("plain", "insecure = true")
    requests = link.output.count('"POST')
    device = lab.start_supernode("pi1", "", "--max-retries", "1", key=False, tls=False)  # without it, it tries for ever
    assert device.wait() == REFUSED
    assert "Server disconnected without sending a response" in device.output
    listed = lab.flwr("supernode", "list", "plain")
    assert listed.returncode == 1
    assert "unavailable" in listed.stderr
    assert link.output.count('"POST') == requests
    assert lab.nodes() == {node: "registered"}


def test_plain_http_must_be_said_on_both_sides(lab: Lab) -> None:
    address = ("--host", HOST, "--port", str(lab.port))
    link = lab.start("superlink", "flower-superlink", *address)
    assert link.wait() == 1
    assert "Certificates are required unless running in insecure mode" in link.output
    link = lab.start("superlink", "flower-superlink", *address, "--insecure", "--enable-supernode-auth")
    assert link.wait() == 1
    assert "requires encrypted TLS" in " ".join(link.output.split())

    lab.start_superlink(tls=False)
    lab.keys.add("pi1")
    for options in ({"tls": True}, {"tls": True, "key": False}, {"tls": False}):
        device = lab.start_supernode("pi1", **options)
        assert device.wait() == REFUSED
        assert ("WRONG_VERSION_NUMBER" if options["tls"] else "requires a secure TLS connection") in device.output
    lab.start_supernode("pi1", key=False, tls=False).wait_for("SuperNode ID")  # anybody


def test_a_device_that_is_unregistered_is_sent_away_for_good(lab: Lab) -> None:
    lab.start_superlink()
    gone, stays = lab.register("pi1"), lab.register("pi2")
    devices = [lab.admit("pi1"), lab.admit("pi2")]
    done = lab.flwr("supernode", "unregister", gone, "lab")
    assert done.returncode == 0, done.stderr
    assert lab.nodes() == {gone: "unregistered", stays: "online"}
    assert devices[0].wait() in SHUT_OUT  # it ends by itself when it next asks for work
    device = lab.start_supernode("pi1")
    assert device.wait() == REFUSED
    assert "Failed to activate SuperNode" in device.output
    public = lab.keys.folder / "devices" / "pi1" / "key.pub"
    again = lab.flwr("supernode", "register", str(public), "lab")
    assert again.returncode == 1
    assert "Public key already in use" in again.stderr
    lab.keys.remove("pi1")  # new keys are what brings it back
    assert lab.register("pi1") not in (gone, stays)
    lab.admit("pi1")
    assert devices[1].exit_status is None


@pytest.mark.parametrize("kept", [True, False])
def test_a_superlink_knows_its_devices_after_a_restart_if_it_has_a_database(kept: bool, lab: Lab) -> None:
    options = ("--database", str(lab.server / "state.db")) if kept else ()
    link = lab.start_superlink(*options)
    node = lab.register("pi1")
    device = lab.admit("pi1")
    link.stop()
    device.wait_for("Connection attempt failed")  # it asks every few seconds, and might not notice a quick restart
    lab.start_superlink(*options)
    if kept:
        device.wait_for("Connection successful after")
        assert lab.nodes() == {node: "online"}
    else:
        assert device.wait() == 0
        assert "SuperNode terminated gracefully" in device.output
        assert lab.nodes() == {}


def test_whoever_reaches_the_superlink_can_do_what_the_operator_can(lab: Lab) -> None:
    """A certificate that every device has is enough: why docs/devices.md asks for a closed network."""
    lab.start_superlink()
    lab.connect("device", f'root-certificates = "{lab.keys.add("pi1").folder / "ca.crt"}"')
    node = lab.register("intruder", "device")
    assert lab.nodes() == {node: "registered"}


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found in /proc")
def test_nothing_is_left_running(tmp_path: Path) -> None:
    """What ``Lab`` promises the other tests, whatever state its processes are in."""
    lab = Lab(tmp_path / "lab")
    lab.start_superlink()
    lab.register("pi1")
    lab.admit("pi1")
    mark = str(tmp_path).encode()

    def running() -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes().decode())
            except OSError:
                continue
        return found

    assert len(running()) >= 2
    lab.close()
    wait_until(lambda: not running(), lambda: "\n".join(running()), timeout=10)
