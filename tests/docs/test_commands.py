"""The commands of the pages are run, with few rounds and images, in a folder that has the runs they speak of."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.documents import PAGES, SETTINGS, Command, commands, run

FOLLOWED = ("adding.md", "devices.md")
"""Pages that tests of their own follow."""
ELSEWHERE = {
    "data_dir=/data": "needs real images",
    "engine.address=": "needs a SuperLink or a Ray cluster",
    "fedsim.devices": "is followed in tests/fedsim/deployment/devices",
    "fedsim.app.catalogue": "writes into the checkout",
    "fedsim.config.reference": "writes into the checkout",
    "benchmarks/": "takes long",
    **dict.fromkeys(("--config-path", " RUN", " FOLDER", " SWEEP"), "has a name in the place of a folder"),
    "mkdocs": "is run in tests/docs/test_site.py",
    "strategy.pretrained=": "needs weights of the network that it names",
}
"""Parts of commands that are not run here, and why."""
FEW = ["rounds=2", "device=cpu", "pictures=false"]
FEW_IMAGES = ["dataset.train_per_domain=80", "dataset.test_per_domain=20"]


def elsewhere(command: Command) -> str | None:
    """Why a command is not run here."""
    if not command.arguments:
        return "is the name of a program, in a sentence"
    if "tracker" in str(command) and find_spec("mlflow") is None:
        return "needs mlflow"
    if "engine=ray" in str(command) and find_spec("ray") is None:
        return "needs ray"
    return next((why for part, why in ELSEWHERE.items() if part in " ".join(command.words)), None)


def shortened(command: Command, out: Path) -> list[str]:
    """Its words with few rounds and images, one seed, and a folder of its own."""
    if command.program not in SETTINGS:
        return command.arguments
    if any(word in ("--cfg", "-sc") or word.endswith("=list") for word in command.arguments):
        return command.arguments
    words = [re.sub(r"^(seed\w*=\d+),.*", r"\1", word) for word in command.arguments if not word.startswith("out_dir=")]
    if any(word.startswith("resume=") for word in words):
        return [re.sub(r"^rounds=.*", "rounds=3", word) for word in words]
    words = [word for word in words if not word.startswith(("rounds=", "evaluate_every="))]
    images = [] if any(word.startswith(("dataset", "experiment=")) for word in words) else FEW_IMAGES
    few = FEW if command.program == "run.py" else []
    return [*words, *few, *images, f"out_dir={out}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs and sweeps under the names that the pages use."""
    here = tmp_path_factory.mktemp("pages")
    python = [sys.executable, str(ROOT / "run.py"), *FEW, *FEW_IMAGES]
    for name in ("outputs/DATE/TIME", "outputs/A", "outputs/B"):
        run([*python, "metrics=[ece]", f"seed={len(name)}", f"out_dir={name}"], here)
    values = ["-m", "strategy=fedavg,fedbn", "seed=0,1", "metrics=[ece]", "split.validation=0.2"]
    for name in ("multirun/DATE/TIME", "sweep", "first_sweep"):
        run([*python, *values, *(["lr=0.03,0.1"] if name == "sweep" else []), f"out_dir={name}"], here)
    return here


@pytest.mark.nightly
@pytest.mark.xdist_group("commands-of-pages")
@pytest.mark.parametrize("command", commands([page for page in PAGES if page.name not in FOLLOWED]), ids=str)
def test_it_runs(command: Command, folder: Path, tmp_path: Path) -> None:
    if (why := elsewhere(command)) is not None:
        pytest.skip(why)
    program = ["-m", command.program] if command.words[0] == "-m" else [str(ROOT / command.program)]
    run([sys.executable, *program, *shortened(command, tmp_path / "out")], folder)
