"""Neural collapse against covariances that are written out, and where it is complete."""

import numpy as np
import pytest
import torch

from fedsim.diagnostics.collapse import ClassMeans, collapse_metrics

CLASSES, FEATURES, IMAGES = 5, 8, 60


def features_and_labels() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(IMAGES) % CLASSES
    return rng.normal(size=(CLASSES, FEATURES))[labels] + 0.3 * rng.normal(size=(IMAGES, FEATURES)), labels


def class_means(features: np.ndarray, labels: np.ndarray, classes: int = CLASSES) -> ClassMeans:
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels), classes).double()
    return ClassMeans.of(one_hot.T @ torch.from_numpy(features), one_hot.sum(0))


def test_the_projection_gives_nc1_without_a_covariance() -> None:
    features, labels = features_and_labels()
    means = np.stack([features[labels == c].mean(0) for c in range(CLASSES)])
    within = sum(np.outer(h - means[y], h - means[y]) for h, y in zip(features, labels, strict=True)) / IMAGES
    centred = means - means.mean(0)
    between = centred.T @ centred / CLASSES
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-10))

    classes = class_means(features, labels)
    projection = classes.projection().numpy()
    assert projection.shape == (FEATURES, CLASSES - 1)
    np.testing.assert_allclose(projection @ projection.T, np.linalg.pinv(between, rcond=1e-10), atol=1e-9)
    scatter = (((features - means[labels]) @ projection) ** 2).sum() / IMAGES
    assert scatter == pytest.approx(expected, rel=1e-9)


def test_the_metrics_are_those_written_out() -> None:
    features, labels = features_and_labels()
    classes = class_means(features, labels)
    weight = np.random.default_rng(1).normal(size=(CLASSES, FEATURES))
    metrics = collapse_metrics(classes, torch.from_numpy(weight), scatter=2.5, disagreeing=0.25)
    means = np.stack([features[labels == c].mean(0) for c in range(CLASSES)])
    means -= means.mean(0)

    def coherence(rows: np.ndarray) -> float:
        pairs = [(i, j) for i in range(CLASSES) for j in range(CLASSES) if i != j]
        cosines = [rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j]) for i, j in pairs]
        return float(np.mean(np.abs(np.array(cosines) + 1 / (CLASSES - 1))))

    def variation(rows: np.ndarray) -> float:
        lengths = np.linalg.norm(rows, axis=1)
        return float(lengths.std(ddof=1) / lengths.mean())

    difference = weight / np.linalg.norm(weight) - means / np.linalg.norm(means)
    assert metrics == pytest.approx(
        {
            "nc1": 2.5,
            "nc2_norms_means": variation(means),
            "nc2_norms_weights": variation(weight),
            "nc2_angles_means": coherence(means),
            "nc2_angles_weights": coherence(weight),
            "nc3": (difference**2).sum(),
            "nc4": 0.25,
        },
        rel=1e-9,
    )


def test_everything_is_zero_once_the_classes_have_collapsed() -> None:
    frame = np.eye(CLASSES, FEATURES) - np.r_[np.full(CLASSES, 1 / CLASSES), np.zeros(FEATURES - CLASSES)]
    labels = np.arange(IMAGES) % CLASSES
    classes = class_means(frame[labels] + 7, labels)
    projection = classes.projection()
    spread = torch.from_numpy(frame[labels] + 7) - classes.means[torch.from_numpy(labels)]
    scatter = (spread @ projection).square().sum().item()
    metrics = collapse_metrics(classes, 3 * torch.from_numpy(frame), scatter, 0.0)
    assert metrics == pytest.approx(dict.fromkeys(metrics, 0.0), abs=1e-9)
    assert len(metrics) == 7


def test_classes_that_nobody_has_are_left_out() -> None:
    features, labels = features_and_labels()
    known, absent = class_means(features, labels), class_means(features, labels, CLASSES + 2)
    weight = torch.randn(CLASSES + 2, FEATURES, dtype=torch.float64)
    assert absent.present.tolist() == list(range(CLASSES))
    assert absent.means[CLASSES:].isinf().all()
    assert collapse_metrics(absent, weight, 1.0, 0.0) == collapse_metrics(known, weight[:CLASSES], 1.0, 0.0)


def test_one_class_cannot_collapse() -> None:
    features, labels = features_and_labels()
    alone = class_means(features, np.zeros_like(labels))
    assert alone.projection().shape == (FEATURES, 0)
    assert collapse_metrics(alone, torch.ones(CLASSES, FEATURES), 1.0, 0.0) == {}
