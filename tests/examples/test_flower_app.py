"""The example app: its rounds against rounds by hand, beside packages of other people's, and on Flower's runtime."""

import os
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from fedsim.core.threads import one_thread
from tests.conftest import BIN, ROOT

APP = ROOT / "examples" / "flower_app"
ROUNDS, LR, CLIENTS = 3, 0.1, 4

PROGRAM = f"""
import strategies, clients, datasets  # the user's own, of the folder this runs in
from flwr.app import Context, RecordDict
from fedbn_app import client_app, server_app
from fedsim.engines.inline import InlineGrid  # a Flower Grid in one process

grid = InlineGrid(lambda device: client_app.app, {CLIENTS}, ["cpu"])
config = {{"rounds": {ROUNDS}, "seed": 0, "lr": {LR}}}
server_app.app(grid, Context(0, 0, {{}}, RecordDict(), config))
assert strategies.MINE and clients.MINE and datasets.MINE
"""


def rounds_by_hand(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Mean accuracies: whole models that are trained apart, of which all but the BatchNorm layers are averaged."""
    monkeypatch.syspath_prepend(str(APP))
    from fedbn_app import task

    torch.manual_seed(0)
    models = [task.make_model()]
    models += [deepcopy(models[0]) for _ in range(CLIENTS - 1)]
    accuracies = []
    for _ in range(ROUNDS):
        for client, model in enumerate(models):
            task.train(model, task.make_examples(client, "train"), LR)
        for layers in zip(*models, strict=True):
            if not isinstance(layers[0], torch.nn.BatchNorm2d):
                for parameters in zip(*(layer.parameters() for layer in layers), strict=True):
                    mean = torch.stack([parameter.data.double() for parameter in parameters]).mean(0)
                    for parameter in parameters:
                        parameter.data = mean.float()
        tests = [task.make_examples(client, "test") for client in range(CLIENTS)]
        own = [task.accuracy(model, test) for model, test in zip(models, tests, strict=True)]
        accuracies.append(sum(own) / CLIENTS)
    return accuracies


def shown(output: str) -> list[float]:
    return [float(text) for text in re.findall(r"round \d+: accuracy ([\d.]+)", output)]


def test_its_rounds_are_those_by_hand_beside_packages_of_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("strategies", "clients", "datasets"):
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(APP), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with one_thread():  # as the clients of a grid have it: two threads add in another order, which shows after rounds
        by_hand = rounds_by_hand(monkeypatch)
    assert shown(done.stdout) == pytest.approx(by_hand, abs=0.001)
    assert by_hand[-1] > 0.5  # chance is a quarter


@pytest.mark.slow
@pytest.mark.devices
@pytest.mark.xdist_group("local-superlink")  # Flower's has one port, whatever its home
@pytest.mark.skipif(not Path("/proc").exists(), reason="the daemon is found in /proc")
def test_it_runs_on_flowers_own_runtime(
    flower: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [str(BIN / "flwr"), "run", str(APP), "--stream", "--run-config", f"rounds={ROUNDS}"]
    command += ["--federation-config", f"num-supernodes={CLIENTS} client-resources-num-cpus=1"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**flower, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert shown(done.stdout) == pytest.approx(rounds_by_hand(monkeypatch), abs=0.02), done.stdout
