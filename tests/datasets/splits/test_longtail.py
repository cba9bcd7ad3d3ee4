"""The exponential long tail: the published numbers, and which images stay."""

import numpy as np
import pytest

from datasets.splits.longtail import LongTail
from fedsim.core.errors import UserError


@pytest.mark.parametrize(
    ("classes", "size", "factor", "total"),
    [(10, 5000, 0.01, 12406), (10, 5000, 0.02, 13996), (100, 500, 0.01, 10847), (100, 500, 0.02, 12608)],
)
def test_cifar_keeps_as_many_images_as_published(classes: int, size: int, factor: float, total: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(classes), size))
    kept = LongTail(factor).keep(labels, classes, np.random.default_rng(1))
    assert len(np.unique(kept)) == len(kept) == total
    assert np.all(np.diff(kept) > 0)
    counts = np.bincount(labels[kept])
    assert counts.tolist() == [int(size * factor ** (label / (classes - 1))) for label in range(classes)]


def test_a_permutation_makes_other_classes_the_head() -> None:
    labels = np.repeat(np.arange(10), 100)
    heads = set()
    for seed in range(20):
        counts = np.bincount(labels[LongTail(0.1, "permutation").keep(labels, 10, np.random.default_rng(seed))])
        assert sorted(counts) == sorted(int(100 * 0.1 ** (rank / 9)) for rank in range(10))
        heads.add(int(counts.argmax()))
    assert len(heads) > 5


def test_a_class_keeps_what_it_has_and_at_least_one_image() -> None:
    labels = np.repeat([0, 1, 2, 4], [40, 3, 30, 5])  # class 3 has none
    counts = np.bincount(labels[LongTail(0.01).keep(labels, 5, np.random.default_rng(0))], minlength=5)
    assert counts.tolist() == [40, 3, int(40 * 0.01**0.5), 0, 1]


def test_the_images_that_stay_are_drawn_at_random() -> None:
    labels = np.repeat([0, 1], 1000)
    kept = LongTail(0.1).keep(labels, 2, np.random.default_rng(0))
    tail = kept[kept >= 1000] - 1000
    assert 400 < tail.mean() < 600
    assert not np.array_equal(kept, LongTail(0.1).keep(labels, 2, np.random.default_rng(1)))


@pytest.mark.parametrize("factor", [0, -0.1, 1.5])
def test_a_factor_that_is_no_share_is_refused(factor: float) -> None:
    with pytest.raises(UserError, match=rf"^split\.imbalance_factor={factor} is not possible: choose a number above 0"):
        LongTail(factor)


def test_another_head_is_refused() -> None:
    with pytest.raises(UserError, match=r"^split\.head=tail is not possible: choose order or permutation\.$"):
        LongTail(0.1, "tail")


def test_a_factor_of_one_keeps_everything_of_equal_classes() -> None:
    labels = np.repeat(np.arange(3), 7)
    assert LongTail(1).keep(labels, 3, np.random.default_rng(0)).tolist() == list(range(21))
    for factor in (0, 1.001, float("nan")):
        with pytest.raises(UserError, match="imbalance_factor="):
            LongTail(factor)
