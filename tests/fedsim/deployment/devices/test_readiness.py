"""``python -m fedsim.devices check``: all is well, and then one thing after the other is not."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedsim.deployment.devices import readiness
from fedsim.deployment.devices.authority import Authority
from fedsim.deployment.devices.command import main
from fedsim.deployment.devices.scripts import DevicePlan
from tests.fedsim.deployment.devices.tls import serving


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A folder as it is copied onto a device, whose server answers and whose paths have spaces."""
    bin_ = tmp_path / "venv" / "bin"
    bin_.mkdir(parents=True)
    (bin_ / "flower-supernode").touch(mode=0o755)
    data = tmp_path / "my data"
    data.mkdir()
    rng = np.random.default_rng(0)
    np.savez(
        data / "data.npz",
        train_images=rng.integers(0, 256, (6, 8, 8), np.uint8),
        train_labels=np.array([0, 1, 2, 2, 2, 0]),
        test_images=rng.integers(0, 256, (3, 8, 8), np.uint8),
        test_labels=np.array([1, 1, 0]),
    )
    plan = DevicePlan(str(data), str(tmp_path / "my state"), str(tmp_path / "keys"), str(tmp_path / "venv"))
    lab = Authority.create(tmp_path / "lab", ["127.0.0.1"], ["pi1"], plan=plan)
    folder = lab.folder / "devices" / "pi1"
    with serving(lab.folder) as port:
        edit(folder, "127.0.0.1:8000", f"127.0.0.1:{port}")
        yield folder


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "device.env").read_text()
    assert old in text
    (folder / "device.env").write_text(text.replace(old, new))


def test_a_device_that_is_ready(device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(device)]) == 0
    printed = capsys.readouterr()
    assert not printed.err
    begins = ("key: ", "certificate: ", "versions: ", "program: ", "state-dir: ", "images: ", "server: ")
    lines = printed.out.splitlines()
    assert all(line.startswith(begin) for line, begin in zip(lines, begins, strict=True))
    images = f"images: {tmp_path / 'my data'}: 6 to train on (0: 2, 1: 1, 2: 3); 3 to test on (0: 1, 1: 2, 2: 0)"
    assert images in lines
    for package in ("python", "torch", "flwr", "fedsim"):
        assert package in lines[2]
    assert list((tmp_path / "my state").iterdir()) == []


def test_folders_of_images_by_the_settings_of_a_run(
    device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my data" / "data.npz").unlink()
    for part, name, count in (("train", "cat", 3), ("train", "dog", 2), ("test", "dog", 1)):
        folder = tmp_path / "my data" / part / name
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (9, 9), (200 + number, 0, 0)).save(folder / f"{number}.png")
    assert main(["check", str(device)]) == 0
    assert "5 to train on (cat: 3, dog: 2); 1 to test on (cat: 0, dog: 1)" in capsys.readouterr().out
    assert main(["check", str(device), "dataset.classes=[ant,cat,dog]", "dataset.image_size=8"]) == 0
    assert "5 to train on (ant: 0, cat: 3, dog: 2)" in capsys.readouterr().out
    assert main(["check", str(device), "dataset.classes=[ant,cat]"]) == 2
    assert "dog is no class: dataset.classes has ant, cat." in capsys.readouterr().err
    (tmp_path / "my data" / "train" / "cat" / "1.png").write_bytes(b"no picture")
    assert main(["check", str(device)]) == 2
    assert "1.png" in capsys.readouterr().err


def test_a_part_of_a_dataset_that_the_settings_name(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["dataset=digits", "dataset.train_per_domain=20", "dataset.test_per_domain=20"]
    assert main(["check", str(device), *words]) == 0
    assert "20 to train on (" in capsys.readouterr().out
    edit(device, "partition-id=0", "partition-id=6")
    assert main(["check", str(device), *words]) == 2
    assert "partition-id=6 is no client of this federation: choose 0 to 5." in capsys.readouterr().err


def test_a_run_on_devices_is_not_resumed(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(device), "resume=outputs/run"]) == 2
    assert "resume=outputs/run is not possible with flwr run: SuperNodes keep" in capsys.readouterr().err


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def holding(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: void((folder / name).write_bytes(data))


def saying(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder, old, new)


def void(result: object) -> None:
    """For a function that must return nothing."""


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (without("key"), "key cannot be read (No such file or directory): copy it from devices/NAME on the server"),
        (holding("key", b"x"), "key is no key of a device: copy it again"),
        (lambda folder: (folder / "key").chmod(0o644), "key can be read or written by others: chmod 600 it."),
        (without("ca.crt"), "ca.crt cannot be read (No such file or directory): copy it"),
        (holding("ca.crt", b"x"), "ca.crt is no certificate: copy it again"),
        (saying("/venv", "/nothing"), "has no flower-supernode: write VENV="),
        (
            saying("/my data", "/no data"),
            "no data/train is missing: a device's data-dir holds data.npz, or",
        ),
        (saying("/my state", "/my data/data.npz"), "data.npz cannot be written (File exists): choose a folder"),
        (saying("partition-id=0", "partition=0"), "node-config partition=0 is not known: choose from partition-id"),
        (saying("partition-id=0", "partition-id=zero"), "cannot be read: write KEY=VALUE with spaces between"),
        (saying("flwr=", "flwr=0."), "is installed here, and the server had 0."),
        (saying('data-dir="', 'data-dir="~nobody_here'), "names a home folder that is not here"),
        (saying("VENV=", "VENV='~nobody_here'\nWAS="), "VENV=~nobody_here has no flower-supernode: write VENV="),
        (saying("SUPERLINK=127.0.0.1", "SUPERLINK=lab..x"), "cannot be reached, lab..x is no name of a host"),
        (saying("SUPERLINK=127.0.0.1", "SUPERLINK=127.0.0.9"), "cannot be reached, the connection is refused"),
        (holding("device.env", b"SUPERLINK='a"), "device.env cannot be read (No closing quotation): write KEY='VALUE'"),
        (holding("device.env", b"hello"), "device.env cannot be read ('hello' is no assignment): write KEY='VALUE'"),
        (without("device.env"), "has no device.env: name the folder devices/NAME that was copied here."),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    harm: Callable[[Path], None], sentence: str, device: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(device)
    assert main(["check", str(device)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert sentence in printed.err
    assert printed.err.count("\n") == 1


def test_all_that_is_wrong_is_said_at_once(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (device / "key").chmod(0o640)
    edit(device, "/my data", "/no data")
    edit(device, "SUPERLINK=127.0.0.1", "SUPERLINK=127.0.0.9")
    assert main(["check", str(device)]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("error: ") == 3
    assert "state-dir: " in printed.out


def test_other_versions_than_flowers_are_told_and_allowed(device: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(device, "torch=", "torch=0.")
    assert main(["check", str(device)]) == 0
    assert "(the server had torch 0." in capsys.readouterr().out


def test_packages_that_are_broken_or_missing(
    device: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fedsim.deployment.devices.own_federation", None)
    assert main(["check", str(device)]) == 2
    assert (
        "the packages cannot be loaded (import of fedsim.deployment.devices.own_federation halted"
        in capsys.readouterr().err
    )
    monkeypatch.setattr(readiness, "versions", lambda: {"python": "3.9.1", "fedsim": "0.1.0", "torch": "2.6"})
    monkeypatch.setattr(readiness, "PYTHONS", ((3, 90), (3, 91)))
    assert main(["check", str(device)]) == 2
    printed = capsys.readouterr()
    assert "error: flwr is not installed for" in printed.err
    assert "error: Python 3.9.1 is not possible: make a virtual environment with 3.90 to 3.91." in printed.err
    assert printed.err.count("\n") == 2
    assert "server: " in printed.out


def test_a_device_without_a_state_dir_is_told_what_that_means(
    device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(device, f' state-dir="{tmp_path / "my state"}"', "")
    assert main(["check", str(device)]) == 0
    assert "state-dir: none in NODE_CONFIG, so what is personal is lost" in capsys.readouterr().out
