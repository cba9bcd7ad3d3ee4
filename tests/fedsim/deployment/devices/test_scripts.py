"""Start scripts and units: they hand Flower the right words, whatever is in the paths."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from flwr.common.config import parse_config_args

from fedsim.core.errors import UserError
from fedsim.deployment.devices.authority import Authority
from fedsim.deployment.devices.command import main
from fedsim.deployment.devices.node import NodeConfig
from fedsim.deployment.devices.scripts import DevicePlan, partition_of, read_env

ODD = "my lab, $HOME `x` 100% it's"
"""A folder that somebody could have."""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Commands of Flower's names that print their words, in a virtual environment of an odd name."""
    bin_ = tmp_path / ODD / "venv" / "bin"
    bin_.mkdir(parents=True)
    for name in ("flower-superlink", "flower-supernode"):
        (bin_ / name).write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv))\n")
        (bin_ / name).chmod(0o755)
    return bin_.parent


def start(script: Path, *more: str) -> list[str]:
    """The words with which it starts its program, run from elsewhere."""
    done = subprocess.run([str(script), *more], cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    words: list[str] = json.loads(done.stdout)
    return words


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_the_scripts_start_flower_with_the_files_beside_them(programs: Path, tmp_path: Path) -> None:
    plan = DevicePlan(str(tmp_path / 'with "quotes"'), "~/state of it's", "~/keys", str(programs))
    lab = Authority.create(tmp_path / ODD / "lab", ["10.0.0.1"], ["pi1", "pi2"], port=8123, plan=plan)
    moved = tmp_path / "copied here"
    shutil.copytree(lab.folder / "devices" / "pi2", moved)
    words = start(moved / "start.sh", "--port", "9123")
    assert Path(words[0]) == programs / "bin" / "flower-supernode"
    assert option(words, "--superlink") == "10.0.0.1:8123"
    assert option(words, "--root-certificates") == str(moved / "ca.crt")
    assert option(words, "--auth-supernode-private-key") == str(moved / "key")
    assert words[-2:] == ["--port", "9123"]
    node = NodeConfig.of(parse_config_args([option(words, "--node-config")]))
    assert (node.partition, node.domain) == (1, "pi2")
    assert node.data_dir == tmp_path / 'with "quotes"'
    assert node.state_dir == Path("~/state of it's").expanduser()
    env = (lab.folder / "server.env").read_text()
    venv = read_env(lab.folder / "server.env")["VENV"]
    (lab.folder / "server.env").write_text(
        env.replace(f"VENV={shlex.quote(venv)}", f"VENV={shlex.quote(str(programs))}")
    )
    words = start(lab.folder / "start.sh")
    assert option(words, "--database") == str(lab.folder / "state.db")
    assert (option(words, "--host"), option(words, "--port")) == ("10.0.0.1", "8123")
    for name, file in (("certfile", "server.pem"), ("keyfile", "server.key"), ("ca-certfile", "ca.crt")):
        assert option(words, f"--ssl-{name}") == str(lab.folder / file)
    assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} <= set(words)


def test_a_virtual_environment_may_be_in_the_home_and_what_is_not_there_is_said(tmp_path: Path, programs: Path) -> None:
    lab = Authority.create(tmp_path / "lab", ["10.0.0.1"], ["pi1"], plan=DevicePlan(venv="~/my venv"))
    script = lab.folder / "devices" / "pi1" / "start.sh"
    home = {"HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([script], env=home, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: flower-supernode is not found: write in ")
    assert done.stderr.count("\n") == 1
    shutil.copytree(programs, tmp_path / "home" / "my venv")
    assert subprocess.run([script], env=home, capture_output=True, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize(
    ("hosts", "listening"),
    [
        (["10.0.0.1"], "10.0.0.1"),
        (["10.0.0.1", "10.0.0.1"], "10.0.0.1"),
        (["fd00::1"], "fd00::1"),
        (["lab"], "0.0.0.0"),  # which /etc/hosts may have as 127.0.1.1
        (["10.0.0.1", "10.9.0.1"], "0.0.0.0"),
        (["10.0.0.1", "lab"], "0.0.0.0"),
        (["127.0.0.1", "10.0.0.1"], "0.0.0.0"),
        (["fd00::1", "lab"], "::"),
        (["localhost"], "127.0.0.1"),
    ],
)
def test_the_superlink_listens_where_devices_look_for_it(hosts: list[str], listening: str, tmp_path: Path) -> None:
    lab = Authority.create(tmp_path / "lab", hosts)
    assert read_env(lab.folder / "server.env")["HOST"] == listening
    assert lab.superlink == ("[fd00::1]:8000" if hosts[0] == "fd00::1" else f"{hosts[0]}:8000")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", ["lab", "my lab 100% $x"])
def test_systemd_reads_the_units(name: str, tmp_path: Path) -> None:
    plan = DevicePlan(keys_dir=str(tmp_path / name / "devices" / "pi1"))
    lab = Authority.create(tmp_path / name, ["10.0.0.1"], ["pi1"], plan=plan).folder
    for unit in (lab / "fedsim-superlink.service", lab / "devices" / "pi1" / "fedsim-supernode.service"):
        done = subprocess.run(
            ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert unit.name not in done.stderr, done.stderr


def test_the_unit_of_a_device_starts_the_script_in_its_home(tmp_path: Path) -> None:
    lab = Authority.create(tmp_path / "lab", ["10.0.0.1"], ["pi1"], plan=DevicePlan(keys_dir='~/50% "k" $x'))
    unit = (lab.folder / "devices" / "pi1" / "fedsim-supernode.service").read_text()
    assert r'ExecStart=/bin/sh "%h/50%% \"k\" $$x/start.sh"' in unit.splitlines()
    assert {"Restart=on-failure", "RestartSec=10", "WantedBy=default.target"} <= set(unit.splitlines())


def test_each_device_plays_a_client_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "lab"
    words = ["--host", "10.0.0.1", "--port", "8123", *("--device", "a"), *("--device", "b"), *("--device", "c")]
    assert main(["init", str(folder), *words]) == 0
    printed = capsys.readouterr().out
    assert f"--database {folder / 'state.db'}" in printed
    assert 'data-dir="~/data" state-dir="~/state"' in printed
    assert f"sh {folder / 'start.sh'}" in printed
    devices = folder / "devices"
    assert [partition_of(devices / name) for name in "abc"] == [0, 1, 2]
    assert main(["remove", str(folder), "b"]) == 0
    assert "Client 1 is nobody's now: `add` a device, which will play it, or write partition-id=1" in (
        capsys.readouterr().out
    )
    assert main(["add", str(folder), "d", "--domain", "east", "--data-dir", "/srv/images"]) == 0
    said = read_env(devices / "d" / "device.env")
    assert said["NODE_CONFIG"] == 'partition-id=1 domain="east" data-dir="/srv/images" state-dir="~/state"'
    assert said["SUPERLINK"] == "10.0.0.1:8123"
    assert main(["remove", str(folder), "c"]) == 0
    assert "nobody's now" not in capsys.readouterr().out


def test_a_folder_of_an_older_version_gets_further_devices(tmp_path: Path) -> None:
    lab = Authority.create(tmp_path / "lab", ["10.0.0.1"], ["old"])
    for file in ("server.env", "devices/old/device.env"):
        (lab.folder / file).unlink()
    assert read_env(lab.add("new").folder / "device.env")["SUPERLINK"] == "10.0.0.1:8000"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data-dir", "images"], "--data-dir 'images' is not allowed: it is a path on the device that begins with /"),
        (["--data-dir", ""], "--data-dir '' is not allowed: it is a path on the device"),
        (["--state-dir", "/a\nb"], r"--state-dir '/a\nb' is not allowed"),
        (["--keys-dir", "/a\"b'"], "--keys-dir '/a\"b\\'' is not allowed"),
        (["--venv", ".venv"], "--venv '.venv' is not allowed"),
        (["--port", "0"], "--port 0 is not allowed: it is from 1 to 65535."),
    ],
)
def test_paths_that_cannot_be_are_refused_and_nothing_is_made(
    options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "lab"), "--host", "10.0.0.1", *options]) == 2
    assert sentence in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_domain_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"--domain 'a b' is not allowed"):
        DevicePlan(domain="a b")
