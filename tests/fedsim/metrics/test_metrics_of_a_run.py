"""``metrics=`` reaches every table for every predictor; the numbers are computed again from the models of the run."""

import csv
import io
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score

from datasets.build import build_federation
from datasets.federation import Federation
from datasets.source import Part
from fedsim.config.settings import Settings
from fedsim.metrics.registry import FURTHER_METRICS
from fedsim.models import build_model
from fedsim.output.progress import Reporter
from fedsim.output.results import read_result
from fedsim.output.terminal import console
from fedsim.report.command import main
from fedsim.report.run_table import run_table
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run

MakeSettings = Callable[..., Settings]
SKEWED = ("split=[domain,dirichlet]", "split.alpha=0.3", "split.num_clients=10", "lr=0.2", "dataset.image_size=28")
"""Clients that lack classes, and a model that learns something in two rounds."""


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
    probabilities = softmax(logits, axis=1)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.ceil(confidence * 15)
    distances = [abs(right[bins == m].mean() - confidence[bins == m].mean()) * (bins == m).mean() for m in set(bins)]
    return float(sum(distances))


def recall_mean(logits: np.ndarray, labels: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class that only one side has
        return float(balanced_accuracy_score(labels, logits.argmax(1)))


def played(settings: Settings, run_dir: Path) -> tuple[list[dict[str, str]], dict[str, str], dict[str, Any]]:
    """The last round's rows of ``clients.csv``, its row of ``rounds.csv``, and ``final`` of ``summary.json``."""
    run(prepare(settings), run_dir, Reporter())
    final = json.loads((run_dir / "summary.json").read_text())["final"]
    last = [row for row in rows_of(run_dir / "clients.csv") if row["round"] == str(settings.rounds)]
    return last, rows_of(run_dir / "rounds.csv")[-1], final


def logits_on(
    model: torch.nn.Module, tensors: dict[str, torch.Tensor], federation: Federation, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    model.load_state_dict(tensors)
    pixels, labels = federation.examples(images).batch(torch.arange(len(images)))
    with torch.no_grad():
        logits: np.ndarray = model.eval()(pixels).double().numpy()
    return logits, labels.numpy()


def test_the_numbers_are_those_of_the_models_that_a_run_leaves(small_settings: MakeSettings, tmp_path: Path) -> None:
    settings = small_settings(
        *SKEWED,
        *("engine=inline", "strategy=fedbn", "metrics=[balanced_accuracy,ece]", "mask_absent_classes=true"),
        *("split.validation=0.2", "split.leave_out=street"),
    )
    clients, row, final = played(settings, tmp_path)
    federation, model = build_federation(settings), build_model(settings, 10)
    complete = load_file(tmp_path / "model.safetensors")
    on_domains = {name: logits_on(model, complete, federation, own) for name, own in federation.domain_tests.items()}
    union = tuple(np.concatenate(each) for each in zip(*on_domains.values(), strict=True))
    left_out = logits_on(model, complete, federation, federation.unseen_tests["street"])
    for name, value in (("ece", calibration_error), ("balanced_accuracy", recall_mean)):
        assert final[f"global_{name}"] == pytest.approx(value(*union), abs=1e-5)
        assert float(row[f"global_{name}"]) == final[f"global_{name}"]
        assert final[f"unseen_{name}"] == {"street": pytest.approx(value(*left_out), abs=1e-5)}
        assert final[f"domain_{name}"] == {
            domain: pytest.approx(value(*each), abs=1e-5) for domain, each in on_domains.items()
        }
    tested: dict[str, list[float]] = {"ece": [], "masked_ece": [], "masked_balanced_accuracy": [], "validation": []}
    for each in clients:
        number = int(each["client"])
        mine = {**complete, **load_file(tmp_path / "clients" / f"{number}.safetensors")}
        part = Part.TEST if each["split"] == "test" else Part.VALIDATION
        logits, labels = logits_on(model, mine, federation, federation.indices(number, part))
        held = np.bincount(federation.examples_of(number, Part.TRAIN).labels, minlength=10) > 0
        masked = np.where(held, logits, -np.inf)
        expected = {
            "ece": calibration_error(logits, labels),
            "balanced_accuracy": recall_mean(logits, labels),
            "masked_ece": calibration_error(masked, labels),
            "masked_balanced_accuracy": recall_mean(masked, labels),
        }
        assert {name: float(each[name]) for name in expected} == pytest.approx(expected, abs=1e-5)
        if part == Part.VALIDATION:
            tested["validation"].append(expected["ece"])
        else:
            for name in tested.keys() & expected.keys():
                tested[name].append(expected[name])
    assert final["client_ece_mean"] == pytest.approx(np.mean(tested["ece"]), abs=1e-5)
    assert final["validation_ece_mean"] == pytest.approx(np.mean(tested["validation"]), abs=1e-5)
    for name in ("ece", "balanced_accuracy"):
        mean = np.mean(tested[f"masked_{name}"])
        assert final[f"masked_client_{name}_mean"] == pytest.approx(mean, abs=1e-5)
        assert final[f"masked_client_{name}_mean"] != pytest.approx(final[f"client_{name}_mean"], abs=1e-3)
        assert np.average(list(final[f"masked_client_domain_{name}"].values())) == pytest.approx(mean, abs=0.1)


def test_a_client_that_need_not_be_asked_has_what_the_union_of_its_domains_has(
    small_settings: MakeSettings, tmp_path: Path
) -> None:
    settings = small_settings("engine=inline", "split=dirichlet", "split.num_clients=3", "metrics=[ece]", "rounds=1")
    clients, _, final = played(settings, tmp_path)
    assert {float(each["ece"]) for each in clients} == {final["global_ece"]}
    assert "balanced_accuracy" not in clients[0]


class MeanConfidence:
    """The mean of the largest probability, told as it is; undefined for a test set of more than 100 images."""

    percent = False
    higher_is_better = True

    def length(self, num_classes: int) -> int:
        return 1

    def count(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return logits.double().softmax(1).amax(1).sum()[None]

    def value(self, sums: Sequence[float], num_examples: int) -> float | None:
        return sums[0] / num_examples if num_examples <= 100 else None

    def check(self, sums: Sequence[float], num_examples: int) -> None:
        if not 0 < sums[0] <= num_examples:
            raise ValueError("are no sums of probabilities")


def test_a_metric_of_ones_own_is_in_every_table(
    small_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(FURTHER_METRICS, "confidence", MeanConfidence())
    settings = small_settings("engine=inline", "tta=tent", "strategy=fedbn", "metrics=[confidence]")
    clients, row, final = played(settings, tmp_path)
    for predictor in ("", "adapted_"):
        mean = np.mean([float(each[f"{predictor}confidence"]) for each in clients])
        assert 0.1 < mean < 1
        assert final[f"{predictor}client_confidence_mean"] == pytest.approx(mean)
        assert float(row[f"{predictor}client_confidence_mean"]) == pytest.approx(mean)
        by_domain = {each["domain"]: float(each[f"{predictor}confidence"]) for each in clients}
        assert final[f"{predictor}client_domain_confidence"] == by_domain
        assert final[f"{predictor}domain_confidence"].keys() == by_domain.keys()
        # The global model is tested on 120 images, for which it is undefined.
        assert row[f"{predictor}global_confidence"] == ""
        assert f"{predictor}global_confidence" not in final
    assert final["client_confidence_mean"] != pytest.approx(final["adapted_client_confidence_mean"])
    stream = io.StringIO()
    console(file=stream, width=200).print(run_table(read_result(tmp_path)))
    line = next(each.split() for each in stream.getvalue().splitlines() if "clients, adapted, confidence" in each)
    numbers = [*by_domain.values(), np.mean(list(by_domain.values()))]
    assert line[3:] == [f"{number:.3f}" for number in numbers]  # no percent
    assert main([str(tmp_path)]) == 0
    table = {each["domain"]: each for each in rows_of(tmp_path / "comparison.csv")}
    assert float(table["mean, confidence"]["mean"]) == pytest.approx(final["client_confidence_mean"])
    assert f"{final['adapted_client_confidence_mean']:.3f}" in capsys.readouterr().out
