"""Three devices with different domains, TLS and keys: the numbers of ``engine=inline``, whatever happens to a node."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsim import simulate
from tests.conftest import ROOT
from tests.fedsim.deployment.devices.lab import REFUSED, Lab, Process, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.devices,
    pytest.mark.skipif(not Path("/proc").exists(), reason="what Flower leaves running is found in /proc"),
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("devices"),  # one SuperLink for all of them
]
DOMAINS = ("plain", "inverted", "faded")
WORDS = (
    *("rounds=3", "split.leave_out=[texture,street,font]", "device=cpu"),
    *("dataset.train_per_domain=40", "dataset.test_per_domain=20"),
)


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, dict[str, Process]]]:
    lab = Lab(tmp_path_factory.mktemp("devices") / "lab")
    try:
        lab.start_superlink()
        for name in DOMAINS:
            lab.register(name)
        yield lab, {name: lab.admit(name, node_config(lab, name)) for name in DOMAINS}
    finally:
        lab.close()


def node_config(lab: Lab, name: str) -> str:
    return f'partition-id={DOMAINS.index(name)} state-dir="{lab.folder / "state" / name}"'


def states(lab: Lab, name: str) -> list[Path]:
    return list((lab.folder / "state" / name).glob("run-*/partition-*.safetensors"))


def test_a_node_that_is_killed_between_rounds_goes_on_where_it_was(
    devices: tuple[Lab, dict[str, Process]], tmp_path: Path
) -> None:
    lab, nodes = devices
    words = ["strategy=fedbn", *WORDS]
    overrides = " ".join([*words, f"out_dir={tmp_path / 'run'}"])
    run = lab.start("operator", "flwr", "run", str(ROOT), "lab", "--stream", "--run-config", f'overrides="{overrides}"')
    victim = nodes["inverted"]
    victim.wait_for(r"Sending: train message[\s\S]*Sent successfully", timeout=200)
    assert len(states(lab, "inverted")) == 1
    identity = victim.wait_for(r"SuperNode ID: (\d+)")[1]
    victim.kill()
    assert lab.nodes()[identity] == "online"  # nobody has told the SuperLink, which refuses who seems to be there
    early = lab.start_supernode("inverted", node_config(lab, "inverted"))
    assert early.wait() == REFUSED
    assert "Failed to activate SuperNode" in early.output
    nodes["inverted"] = lab.admit("inverted", node_config(lab, "inverted"))
    assert nodes["inverted"].wait_for(r"SuperNode ID: (\d+)")[1] == identity
    assert run.wait(timeout=400) == 0, run.output
    assert "round 3/3" in run.output, run.output
    inline = simulate(*words, "engine=inline", f"out_dir={tmp_path / 'inline'}")
    assert (tmp_path / "run" / "clients.csv").read_bytes() == (tmp_path / "inline" / "clients.csv").read_bytes()
    assert len(inline.clients) == 4 * len(DOMAINS)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["bytes_up"] == inline.summary["bytes_up"]
    # What is personal stayed there: nobody knows a global model, and nobody was asked for his part of it.
    assert "global_accuracy" not in summary["final"]
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert "shared.safetensors" in left
    assert not left & {"model.safetensors", "clients"}
    assert not any("query.state" in node.output for node in nodes.values())
    # One message for each round, and who it is, the first model and the last model apart.
    received = re.findall(r"Receiving: (\S+) message", nodes["plain"].output)
    assert received == ["query.node", "evaluate", "train", "train", "train", "evaluate"]


def test_run_py_follows_a_run_and_leaves_what_a_local_run_leaves(
    devices: tuple[Lab, dict[str, Process]], tmp_path: Path
) -> None:
    lab, nodes = devices
    words = ["strategy=fedwon", *WORDS]
    link = ("engine=superlink", f"engine.address={lab.address}")
    link += (f"engine.root_certificates={lab.keys.folder / 'ca.crt'}", f"out_dir={tmp_path / 'run'}")
    slow, asked = nodes["faded"], "Receiving: query.node message"
    before, identity = slow.output.count(asked), slow.wait_for(r"SuperNode ID: (\d+)")[1]
    run = lab.start("follower", "python", str(ROOT / "run.py"), *link, *words, cwd=tmp_path)
    # Online, asked, and slow to answer: it is stopped with the question in its hands.
    wait_until(lambda: slow.output.count(asked) > before, lambda: run.output, timeout=200)
    os.kill(slow.pid, signal.SIGSTOP)
    try:
        run.wait_for(
            r"waiting for \d+ of join_timeout=600 seconds for client.* "
            rf"node {identity} is online, was asked \d+ seconds ago and has not answered yet"
        )
    finally:
        os.kill(slow.pid, signal.SIGCONT)
    assert run.wait(timeout=400) == 0, run.output
    simulate(*words, "engine=inline", f"out_dir={tmp_path / 'inline'}")
    for file in ("clients.csv", "classes.csv", "model.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "inline" / file).read_bytes(), file
    made = {path.relative_to(tmp_path / "run") for path in (tmp_path / "run").rglob("*") if path.is_file()}
    local = {path.relative_to(tmp_path / "inline") for path in (tmp_path / "inline").rglob("*") if path.is_file()}
    assert made == {path for path in local if path.parts[0] != "checkpoints"}
    assert "round 3/3" in run.output
    assert "fedwon: accuracy (%)" in run.output
    assert "fedsim-event" not in run.output


def test_what_is_wrong_there_is_said_here_in_one_sentence(
    devices: tuple[Lab, dict[str, Process]], tmp_path: Path
) -> None:
    lab, _ = devices
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "run.py"), "engine=superlink", f"engine.address={lab.address}"),
            *(f"engine.root_certificates={lab.keys.folder / 'ca.crt'}", "strategy=fedbn", "norm=gn"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: strategy=fedbn needs BatchNorm layers to keep on the clients")
    assert done.stderr.count("\n") == 1


def test_a_device_that_stays_away_is_named_and_the_round_completes(
    devices: tuple[Lab, dict[str, Process]], tmp_path: Path
) -> None:
    lab, nodes = devices
    words = ["strategy=fedbn", *WORDS[1:], "rounds=1", "min_fraction_success=0.5", "round_timeout=100"]
    overrides = " ".join([*words, f"out_dir={tmp_path / 'run'}"])
    run = lab.start("operator", "flwr", "run", str(ROOT), "lab", "--stream", "--run-config", f'overrides="{overrides}"')
    before = len(re.findall("Receiving: train message", nodes["faded"].output))

    def training() -> bool:
        return len(re.findall("Receiving: train message", nodes["faded"].output)) > before

    wait_until(training, lambda: run.output, timeout=400)  # a busy machine takes its time
    os.kill(nodes["faded"].pid, 9)  # in the middle of the first round
    assert run.wait(timeout=500) == 0, run.output
    assert "client 2 failed in round 1: it has not answered within round_timeout=100 seconds" in run.output
    with (tmp_path / "run" / "clients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["client"] for row in rows if row["fault"]} == {"2"}
    final = {row["client"]: row for row in rows if row["round"] == "1" and row["split"] == "test"}
    assert {"0", "1"} <= set(final)
