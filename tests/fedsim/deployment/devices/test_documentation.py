"""docs/devices.md, followed to the letter on one machine: only what the reader has to fill in is filled in."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import ROOT
from tests.fedsim.deployment.devices.lab import HOST, SHUT_OUT, Completed, Process, end_all, environment, free_port

PAGE = (ROOT / "docs" / "devices.md").read_text()
SUPERLINK, SUPERNODE = "sh $LAB/start.sh", "sh $KEYS/start.sh"
FOREGROUND = {SUPERLINK: "Uvicorn running", SUPERNODE: r"SuperNode ID: \d+"}
"""Commands that stay, and what they say when the reader may go on."""
_ASSIGNMENT = re.compile(r"^([A-Z][A-Z0-9_]*)=.*$", re.MULTILINE)


class Reader:
    """Types the page's blocks where it says, with ``values`` for the variables of each machine."""

    def __init__(self, folder: Path, values: dict[str, dict[str, str]]) -> None:
        self.folder, self.values = folder, values
        self.said: dict[str, str] = {}
        """The assignments of each machine so far: a terminal remembers them."""
        self.staying: dict[str, Process] = {}

    def type(self, machine: str, block: str) -> Completed | None:
        values = self.values[machine]
        block = _ASSIGNMENT.sub(lambda found: f"{found[1]}='{values[found[1]]}'", block)
        script = self.said.get(machine, "") + block
        self.said[machine] = script if not _ASSIGNMENT.sub("", block).strip() else self.said.get(machine, "")
        command, home = ["bash", "-euo", "pipefail", "-c", script], self.folder / "homes" / machine
        for stays, said in FOREGROUND.items():
            if stays in block:
                self.staying[machine] = Process(command, self.folder / f"{machine}.log", home, ROOT)
                self.staying[machine].wait_for(said)
                return None
        home.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(home),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done


def blocks() -> list[tuple[str, str]]:
    """The page's commands with the machine each is typed on, in order."""
    found = re.findall(r"```sh\n# on (?:the )?(\w+).*\n((?:.*\n)*?)```", PAGE)
    assert len(found) == PAGE.count("```sh")
    return found


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    small = "dataset=devices dataset.image_size=16 dataset.channels=1 strategy=fedbn rounds=2"
    server = {
        "SERVER": HOST,
        "PORT": str(free_port()),
        "LAB": str(tmp_path / "lab"),
        "STATE": str(tmp_path / "state"),
        "VENV": sys.prefix,
        "OVERRIDES": f"{small} local_epochs=1 device=cpu out_dir={tmp_path / 'run'}",
    }
    values = {"server": server}
    rng = np.random.default_rng(0)
    for number in (1, 2):
        data, keys = tmp_path / f"data{number}", tmp_path / f"keys{number}"
        data.mkdir()
        images, labels = rng.integers(0, 256, (40, 16, 16), np.uint8), np.arange(40) % 10
        np.savez(
            data / "data.npz",
            train_images=images,
            train_labels=labels,
            test_images=images[:20],
            test_labels=labels[:20],
        )
        values[f"pi{number}"] = {"KEYS": str(keys), "NODE_PORT": str(free_port())}
        server |= {f"PI{number}": str(keys), f"DATA{number}": str(data)}
    made = Reader(tmp_path, values)
    try:
        yield made
    finally:
        end_all([*made.staying.values()], tmp_path / "homes")


def test_every_variable_of_the_page_is_one_the_reader_fills_in(reader: Reader) -> None:
    for machine, values in reader.values.items():
        typed = "".join(block for where, block in blocks() if where == machine)
        assert set(_ASSIGNMENT.findall(typed)) == {*values, *(["NODE_ID"] if machine == "server" else [])}


@pytest.mark.slow
@pytest.mark.devices
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found in /proc")
def test_the_page_can_be_followed(reader: Reader, tmp_path: Path) -> None:
    printed = ""
    for machine, block in blocks():
        done = reader.type(machine, block)
        printed += done.stdout if done is not None else ""
        if SUPERLINK in block:
            reader.staying["superlink"] = reader.staying.pop("server")
        if number := re.search(r"flwr supernode unregister (\d+) lab", printed):
            reader.values["server"]["NODE_ID"] = number[1]
    assert len(re.findall(r"device pi[12]: registered as \d+", printed)) == 2
    assert printed.count("│ online") >= 2
    assert printed.count(" answers, with a certificate valid until ") == printed.count("images: ") == 2
    assert "2 devices take part, all that have joined" in printed
    clients = pd.read_csv(tmp_path / "run" / "clients.csv")
    assert set(zip(clients["client"], clients["domain"], strict=True)) == {(0, "hospital_a"), (1, "hospital_b")}
    assert reader.staying["pi2"].wait() in SHUT_OUT
    assert reader.staying["pi1"].exit_status is None
    assert reader.staying["superlink"].exit_status is None
