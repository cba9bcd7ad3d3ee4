"""A loaded model predicts what the run measured: the same images are right, for every client and predictor."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import fedsim
from datasets.build import build_federation
from datasets.federation import Federation
from datasets.source import Part
from fedsim.config.composition import compose
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.core.seeding import draw_cohort
from fedsim.trained.trained import Trained
from tests.conftest import IMAGE_SHAPE, SMALL
from tests.methods import some_by_day

Train = Callable[..., tuple[Path, Federation]]
METHODS = {
    "fedavg": (),
    "fedbn": (),
    "fedper": (),
    "local": (),
    "ditto": ("fraction=0.5",),  # some clients have not trained yet
    "apfl": ("fraction=0.5",),
    "fedloge": (),
    "fedrod": (),
    "fedsr": (),
    "fedproto": (),
    "creff": (),
    "fedwon": (),
    "fedtiny": ("strategy.density=0.2",),
    "lotteryfl": ("strategy.accuracy=0.0",),
    "fdse": (),
    "fedavg norm.evaluation=batch": (),
    "fedavg norm.evaluation=reestimated": (),
    "fedavg split.validation=0.2": ("split=[domain,feature_noise]",),
}

BY_DAY = ("fedbn", "fedrod", "fedtiny")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains once for each method; returns the run directory and the federation."""
    done: dict[str, tuple[Path, Federation]] = {}

    def trained(method: str) -> tuple[Path, Federation]:
        if method not in done:
            words = [*SMALL, "engine=inline", *f"strategy={method}".split(), *METHODS[method]]
            run_dir = tmp_path_factory.mktemp("runs") / "run"
            fedsim.simulate(*words, f"out_dir={run_dir}", progress=False)
            done[method] = run_dir, build_federation(Settings.from_config(compose(words)))
        return done[method]

    return trained


def images_of(federation: Federation, client: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The client's test images as a user has them, N×H×W×C, and their labels."""
    examples = federation.examples_of(client, Part.TEST)
    return examples.images.numpy().transpose(0, 2, 3, 1), examples.labels.numpy()


@pytest.mark.parametrize("method", some_by_day(METHODS, BY_DAY))
def test_predictions_have_the_accuracies_of_the_table(train: Train, method: str) -> None:
    run_dir, federation = train(method)
    table = pd.read_csv(run_dir / "clients.csv")
    rows = table[(table["round"] == 2) & (table["split"] == "test")].set_index("client")
    columns = [name for name in rows.columns if name.endswith("accuracy")]
    trained = fedsim.load(run_dir)
    assert list(trained.clients) == list(rows.index)
    for client in trained.clients:
        images, labels = images_of(federation, client)
        assert trained.predictors(client) == [name.removesuffix("accuracy").removesuffix("_") for name in columns]
        for name, column in zip(trained.predictors(client), columns, strict=True):
            right = (trained.predict(images, client, predictor=name).argmax(1) == labels).sum()
            assert right / len(labels) == rows.loc[client, column]


@pytest.mark.parametrize("method", some_by_day((name for name in METHODS if "reestimated" not in name), BY_DAY))
def test_the_global_model_has_the_accuracies_of_the_domains(train: Train, method: str) -> None:
    """Where statistics are re-estimated, they are those of each domain, which a run directory does not have."""
    run_dir, federation = train(method)
    last = pd.read_csv(run_dir / "rounds.csv").iloc[-1]
    trained = fedsim.load(run_dir)
    for domain in federation.domain_tests:
        examples = federation.domain_examples(domain)
        right = (trained.predict(examples.images).argmax(1) == examples.labels.numpy()).sum()
        assert right / len(examples) == last[f"domain_accuracy.{domain}"]


@pytest.mark.nightly
@pytest.mark.parametrize("method", ["fedbn", "fedper", "ditto", "apfl", "fedloge", "fedrod"])
def test_a_clients_model_is_its_own(train: Train, method: str) -> None:
    run_dir, federation = train(method)
    images, _ = images_of(federation, 0)
    trained = fedsim.load(run_dir)
    answers = [trained.predict(images, client) for client in (None, *trained.clients)]
    different = {answer.tobytes() for answer in answers}
    fraction = 0.5 if METHODS[method] else 1.0
    has_trained = {client for number in (1, 2) for client in draw_cohort(list(trained.clients), fraction, 0, number)}
    assert len(different) == 1 + len(has_trained)  # one that has not uses the shared model


@pytest.fixture
def trained(train: Train) -> Trained:
    return fedsim.load(train("fedbn")[0])


def test_probabilities_are_the_softmax_of_the_networks_logits(train: Train, trained: Trained) -> None:
    run_dir, federation = train("fedbn")
    images, _ = images_of(federation, 3)
    model = trained.model(client=3)
    assert not model.training
    own = {**load_file(run_dir / "model.safetensors"), **load_file(run_dir / "clients" / "3.safetensors")}
    entries = model.network.state_dict()
    assert entries.keys() == own.keys()
    assert all(torch.equal(entries[name], own[name]) for name in own)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2) / 255)
    with torch.no_grad():
        logits = model.network(((pixels - 0.5) / 0.5).float()).double().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = trained.predict(images, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(trained.predict(images, 3, logits=True), logits, atol=1e-4)


def test_every_form_of_the_images_gives_the_same(train: Train, trained: Trained) -> None:
    images, _ = images_of(train("fedbn")[1], 0)
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    expected = trained.predict(images, 0)
    assert np.array_equal(trained.predict(tensor, 0), expected)
    np.testing.assert_allclose(trained.predict(tensor / 255, 0), expected, atol=1e-5)
    assert trained.predict(images[:0], 0).shape == (0, 10)
    assert trained.classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 16, 16, 1), np.uint8), r"uint8 \(2, 16, 16, 1\) are not possible: choose a numpy array of uint8"),
        (np.zeros((2, 16, 16, 3), np.float32), "float32"),
        (torch.zeros(2, 3, 32, 32), r"\(2, 3, 32, 32\)"),
        (torch.full((2, *IMAGE_SHAPE), -1.0), "from -1 to -1 are not possible: choose floats from 0 to 1"),
    ],
)
def test_other_images_are_refused(trained: Trained, images: npt.NDArray[np.uint8], words: str) -> None:
    with pytest.raises(UserError, match=words):
        trained.predict(images)


def test_what_there_is_not_is_refused(trained: Trained, train: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"client=6 is not one of .*: choose 0 to 5\."):
        trained.model(6)
    with pytest.raises(UserError, match="predictor='realigned' is not known of this model: choose ''"):
        trained.model(predictor="realigned")
    with pytest.raises(UserError, match="is not a run directory"):
        fedsim.load(tmp_path)
    (tmp_path / "config.yaml").write_bytes((train("fedbn")[0] / "config.yaml").read_bytes())
    with pytest.raises(UserError, match=r"holds no model\.safetensors, since it was stopped before its end"):
        fedsim.load(tmp_path)


def test_a_configuration_that_was_emptied_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.touch()
    with pytest.raises(UserError, match=rf"^{file} was cut off or is of another version \(aggregation is missing"):
        fedsim.load(tmp_path)


def test_a_model_that_devices_kept_is_not_taken_for_the_global_one(train: Train, tmp_path: Path) -> None:
    for name in ("config.yaml", "model.safetensors", "provenance.json"):
        (tmp_path / name).write_bytes((train("ditto")[0] / name).read_bytes())
    with pytest.raises(UserError, match=r"client=1 is not possible: .* does not hold what clients kept"):
        fedsim.load(tmp_path).model(1)


def test_statistics_that_are_not_stored_are_not_replaced_by_others(tmp_path: Path) -> None:
    words = ("engine=inline", "rounds=1", "norm.statistics=none", "norm.evaluation=reestimated")
    run = fedsim.simulate(*SMALL, *words, f"out_dir={tmp_path / 'run'}", progress=False)
    with pytest.raises(
        UserError, match=r"norm\.evaluation=reestimated with norm\.statistics=none needs the training images"
    ):
        run.trained.model(0)
