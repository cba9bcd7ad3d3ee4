"""The fifth comparison: class sizes, many, medium and few, and the local test sets."""

import types
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from datasets.shots import SHOTS, shots_by_share
from datasets.source import Part, Source
from datasets.splits.longtail import LongTail
from datasets.splits.own_tests import matched_tests
from datasets.splits.steps import Pool
from results.fedloge_official.official import LabelsOnly, LabelsOnly100, quietly
from results.fedloge_official.rows import row

SETTINGS = {
    f"CIFAR-{classes}-LT alpha {alpha:g} IF {factor:g}": (classes, alpha, factor)
    for classes in (10, 100)
    for alpha in (0.5, 1.0)
    for factor in (0.02, 0.01)
}


def class_sizes(classes: int, factor: float) -> list[int]:
    return [LongTail(factor).size(50_000 // classes, rank, classes) for rank in range(classes)]


def their_shots(theirs: types.SimpleNamespace, counts: Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
    groups, _ = theirs.util.shot_split(counts, threshold_3shot=[75, 95])
    names = dict(zip(("head", "middle", "tail"), SHOTS, strict=True))
    by_class = {label: names[group] for group, labels in groups.items() for label in labels}
    return [by_class[label] for label in range(len(counts))]


def shot_rules(theirs: types.SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, 30, size) for size in rng.integers(3, 30, 500)]
    different = [shots_by_share(draw) != their_shots(theirs, draw) for draw in draws if draw.any()]
    row("shot_split of random counts, some of them zero or equal", f"{sum(different)} of {len(different)} differ")


def protocol(theirs: types.SimpleNamespace) -> None:
    for name, (classes, alpha, factor) in SETTINGS.items():
        data, train, test, users, local_tests = their_split(theirs, classes, alpha, factor)
        labels, test_labels = np.array(train.targets), np.array(test.targets)
        sizes = class_sizes(classes, factor)
        assert np.bincount(labels).tolist() == sizes
        row(name, f"{sum(sizes)} images, sizes as official; first client {data.training_set_distribution[0][:10]}")
        counts = [np.bincount(test_labels[list(local_tests[user])], minlength=classes) for user in users]
        ours = our_tests(labels, test_labels, users)
        row("  local test sets", f"largest difference of a count {np.abs(np.subtract(ours, counts)).max()}")
        held = data.training_set_distribution > 0
        missed = held & (data.local_test_distribution == 0)
        images = np.unique(data.training_set_distribution[missed]).tolist()
        row("  classes of a client that it has images of", held.sum(), f"masked all the same {missed.sum()}", images)
        shots = shots_by_share(sizes), their_shots(theirs, sizes), their_shots(theirs, data.global_test_distribution)
        row("  many, medium, few of the class sizes", group_sizes(shots[0]), f"{differing(*shots[:2])} differ")
        row("  official groups, of the local test sets", group_sizes(shots[2]), f"{differing(*shots[1:])} differ")


def group_sizes(shots: Sequence[str]) -> list[int]:
    return [shots.count(shot) for shot in SHOTS]


def differing(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(first != second for first, second in zip(one, other, strict=True))


def their_split(theirs: types.SimpleNamespace, classes: int, alpha: float, factor: float) -> Any:
    options: dict[str, object] = {"gpu": -1, "dataset": f"cifar{classes}", "IF": factor, "alpha_dirichlet": alpha}
    options |= {"iid": False, "num_users": 40 if classes == 10 else 20, "non_iid_prob_class": 1, "seed": 3407}
    data = theirs.data.myDataset(types.SimpleNamespace(**options))
    with mock.patch.multiple("torchvision.datasets", CIFAR10=LabelsOnly, CIFAR100=LabelsOnly100), quietly():
        return data, *data.get_imbalanced_dataset(data.get_args())


def our_tests(
    labels: npt.NDArray[np.int64], test_labels: npt.NDArray[np.int64], users: dict[int, set[int]]
) -> list[npt.NDArray[np.int64]]:
    """The counts of ``split.test=matched`` for clients that hold what theirs hold."""
    every = np.concatenate([labels, test_labels])
    parts = np.repeat([Part.TRAIN, Part.TEST], [len(labels), len(test_labels)]).astype(np.uint8)
    classes = tuple(map(str, range(every.max() + 1)))
    source = Source(np.zeros((len(every), 1, 1, 1), np.uint8), every, np.zeros_like(every), parts, ("all",), classes)
    pools = [Pool(f"/{user}", "all", np.array(sorted(images))) for user, images in users.items()]
    tests = matched_tests(pools, source, {"all": source.indices(0, Part.TEST)}, seed=0)
    return [np.bincount(every[test], minlength=len(classes)) for test in tests]
