"""A resumed run is held against the data and the software that it was begun with."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from datasets.federation import Federation
from fedsim.core.errors import UserError
from fedsim.output.progress import Reporter
from fedsim.output.provenance import FILE, Provenance
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.conftest import small_settings

SMALL = ("engine=inline", "rounds=1", "strategy=fedbn", "dataset.train_per_domain=20")
TABLES = ("clients.csv", "rounds.csv", "summary.json", "config.yaml", FILE)


class Said(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("begun") / "run"
    run(prepare(small_settings(*SMALL)), run_dir, Reporter())
    return run_dir


@pytest.fixture
def run_dir(begun: Path, tmp_path: Path) -> Path:
    """It lies elsewhere than where it was begun."""
    return Path(shutil.copytree(begun, tmp_path / "run"))


def resumed(run_dir: Path, *overrides: str) -> list[str]:
    """What is said while it goes on for one more round."""
    reporter = Said()
    run(prepare(small_settings(*SMALL, "rounds=2", *overrides, f"resume={run_dir}")), run_dir, reporter)
    return reporter.lines


def test_a_run_with_the_same_data_goes_on(run_dir: Path) -> None:
    before = (run_dir / FILE).read_bytes()
    assert resumed(run_dir) == []
    assert (run_dir / FILE).read_bytes() == before
    assert json.loads((run_dir / "summary.json").read_text())["final"]["round"] == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["dataset.train_per_domain=19"], "client 0 is of plain, 19 training images instead of 20"),
        (["split.clients_per_domain=2"], "12 clients instead of 6"),
    ],
)
def test_other_data_are_refused_before_anything_is_changed(run_dir: Path, overrides: list[str], words: str) -> None:
    before = {name: (run_dir / name).read_bytes() for name in TABLES}
    sentence = rf"^resume={run_dir} is not possible with other data than it was begun with \(.*{words}.*\): put back"
    with pytest.raises(UserError, match=sentence):
        resumed(run_dir, *overrides)
    assert {name: (run_dir / name).read_bytes() for name in TABLES} == before


def test_other_software_is_told(run_dir: Path) -> None:
    recorded = json.loads((run_dir / FILE).read_text())
    recorded["software"] |= {"torch": "1.0.0", "device": "cuda"}
    (run_dir / FILE).write_text(json.dumps(recorded))
    assert resumed(run_dir) == [
        f"WARNING: this run goes on with torch {torch.__version__} instead of 1.0.0, device cpu instead of cuda: its "
        "numbers may differ from here on"
    ]


def test_a_run_of_before_there_was_such_a_file_goes_on_and_has_it_then(run_dir: Path) -> None:
    before = Provenance.load(run_dir)
    (run_dir / FILE).unlink()
    said = resumed(run_dir)
    assert said == [f"WARNING: {run_dir} has no {FILE}: whether its data are still the same is not known"]
    assert Provenance.load(run_dir) == before


def test_of_devices_there_are_counts_and_nothing_of_their_images(
    make_federation: Callable[..., Federation], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = make_federation(3)
    monkeypatch.setattr(federation, "on_devices", True)
    data = Provenance.of(federation, torch.device("cpu")).data.to_json()
    # Client k trains on k + 1 images and has one test image of its own.
    assert data["clients"] == [
        ["domain0", 1, 0, 1, None],
        ["domain1", 2, 0, 1, None],
        ["domain0", 3, 0, 1, None],
    ]
    assert data["tests"] == {"domain0": None, "domain1": None}


@pytest.mark.parametrize(
    ("part", "name", "value", "sentence"),
    [
        ("data", "classes", [], "it has no class or no client"),
        ("data", "classes", [1], "a class has no text for a name"),
        ("data", "image_shape", [3, 28], "images of 3x28 are not possible"),
        ("data", "image_shape", [3, 28, -1], "images of 3x28x-1 are not possible"),
        ("data", "clients", [], "it has no class or no client"),
        ("prediction", "mean", ["a"], "a mean is no number"),
        ("prediction", "std", [1, 1], "it has 2 stds for [13] channels"),
    ],
)
def test_what_no_run_writes_is_refused(run_dir: Path, part: str, name: str, value: object, sentence: str) -> None:
    recorded = json.loads((run_dir / FILE).read_text())
    recorded[part][name] = value
    (run_dir / FILE).write_text(json.dumps(recorded))
    with pytest.raises(UserError, match=rf"^{run_dir / FILE} cannot be read \({sentence}\)"):
        Provenance.load(run_dir)
