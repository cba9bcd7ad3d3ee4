"""Further metrics against loops over the images and against scikit-learn, on one test set and on several merged."""

import re
import warnings

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score

from fedsim.metrics.metric import Metric
from fedsim.metrics.registry import FURTHER_METRICS

CLASSES = 7


def drawn(seed: int, images: int = 200, classes: int = CLASSES) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are right about half of the time, and labels without the last class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes - 1, (images,), generator=generator)
    logits = 2 * torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), labels] += 2
    return logits, labels


def calibration_error(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The paper's formula, bin by bin over lists of images."""
    probabilities = softmax(logits.double().numpy(), axis=1)
    confidence, chosen = probabilities.max(1), probabilities.argmax(1)
    error = 0.0
    for m in range(1, 16):
        mine = [i for i in range(len(labels)) if (m - 1) / 15 < confidence[i] <= m / 15]
        if mine:
            accuracy = np.mean([chosen[i] == int(labels[i]) for i in mine])
            error += len(mine) / len(labels) * abs(accuracy - np.mean([confidence[i] for i in mine]))
    return float(error)


def recall_mean(logits: torch.Tensor, labels: torch.Tensor) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class that only one side has
        return float(balanced_accuracy_score(labels.numpy(), logits.argmax(1).numpy()))


INDEPENDENT = {"ece": calibration_error, "balanced_accuracy": recall_mean}


def counted(metric: Metric, logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Sums, found to be of the right form."""
    sums = metric.count(logits, labels)
    assert (sums.dtype, sums.shape) == (torch.float64, (metric.length(logits.shape[1]),))
    metric.check(sums.tolist(), len(labels))
    numbers: list[float] = sums.tolist()
    return numbers


def test_each_metric_is_computed_again_here() -> None:
    assert FURTHER_METRICS.keys() == INDEPENDENT.keys()
    # Names of columns, which keys of messages are made of: the dash and the dot have a meaning there.
    assert all(re.fullmatch("[a-z][a-z0-9_]*", name) for name in FURTHER_METRICS)


@pytest.mark.parametrize("name", FURTHER_METRICS)
@pytest.mark.parametrize("seed", range(3))
def test_the_value_is_that_of_an_independent_computation(name: str, seed: int) -> None:
    logits, labels = drawn(seed)
    value = FURTHER_METRICS[name].value(counted(FURTHER_METRICS[name], logits, labels), len(labels))
    assert value == pytest.approx(INDEPENDENT[name](logits, labels), abs=1e-12)
    assert 0.02 < float(str(value)) < 0.9  # neither nothing nor everything


@pytest.mark.parametrize("name", FURTHER_METRICS)
def test_merged_sums_have_the_value_on_the_union(name: str) -> None:
    metric, sets = FURTHER_METRICS[name], [drawn(seed, images) for seed, images in enumerate((1, 30, 300))]
    merged = np.sum([counted(metric, *each) for each in sets], axis=0).tolist()
    logits, labels = (torch.cat(each) for each in zip(*sets, strict=True))
    assert metric.value(merged, 331) == pytest.approx(INDEPENDENT[name](logits, labels), abs=1e-12)
    of_parts = [INDEPENDENT[name](*each) * len(each[1]) / 331 for each in sets]
    assert metric.value(merged, 331) != pytest.approx(sum(of_parts), abs=1e-4)  # it is no mean of means
    metric.check(merged, 331)


@pytest.mark.parametrize("name", FURTHER_METRICS)
def test_classes_that_may_not_be_chosen_have_no_probability(name: str) -> None:
    logits, labels = drawn(3)
    masked = logits.masked_fill(torch.tensor([True, False] * 3 + [True]), -torch.inf)
    value = FURTHER_METRICS[name].value(counted(FURTHER_METRICS[name], masked, labels), len(labels))
    assert value == pytest.approx(INDEPENDENT[name](masked, labels), abs=1e-12)
    none = torch.full_like(logits, -torch.inf)  # a client without a training image
    assert torch.isfinite(torch.tensor(counted(FURTHER_METRICS[name], none, labels))).all()


def test_a_model_that_is_sure_and_right_is_calibrated() -> None:
    logits, labels = 1000 * torch.eye(4), torch.arange(4)
    ece = FURTHER_METRICS["ece"]
    assert ece.value(counted(ece, logits, labels), 4) == 0
    assert ece.value(counted(ece, logits, (labels + 1) % 4), 4) == 1
    # Two classes: a confidence of exactly one half lies above 7 / 15 and not above 8 / 15.
    half = counted(ece, torch.zeros(2, 2), torch.tensor([0, 0]))
    assert (half[7], half[15 + 7], half[30 + 7]) == (2, 1, 2)


def test_without_images_there_is_no_value() -> None:
    for metric in FURTHER_METRICS.values():
        assert metric.value([0.0] * metric.length(CLASSES), 0) is None


def edited(sums: list[float], place: int, value: float) -> list[float]:
    return [value if number == place else each for number, each in enumerate(sums)]


@pytest.mark.parametrize(
    ("name", "place", "value", "words"),
    [
        ("ece", 14, 1e6, r"are not over 200 images"),
        ("ece", 30 + 14, 1e6, r"^say that more images of a group are right than there are$"),
        ("ece", 30 + 14, 0.5, r"^are not counts of images$"),
        ("ece", 14, -3.0, r"more images of a group are right"),
        ("ece", 15 + 14, 1e6, r"have a confidence of 1e\+06 for \d+ images between 0\.933 and 1\.000"),
        ("ece", 15 + 7, -1.0, r"have a confidence of -1 for \d+ images between 0\.467 and 0\.533"),
        ("balanced_accuracy", 0, 1e6, r"are not over 200 images"),
        ("balanced_accuracy", 6, 0.5, r"are not counts of images"),
        ("balanced_accuracy", CLASSES, 1e6, r"more images of a group are right"),
        ("balanced_accuracy", CLASSES, -1.0, r"more images of a group are right"),
        ("balanced_accuracy", CLASSES + 6, 1.0, r"more images of a group are right"),
    ],
)
def test_sums_that_cannot_be_are_refused(name: str, place: int, value: float, words: str) -> None:
    metric, (logits, labels) = FURTHER_METRICS[name], drawn(0)
    with pytest.raises(ValueError, match=words):
        metric.check(edited(counted(metric, logits, labels), place, value), len(labels))
