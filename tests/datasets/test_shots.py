"""Many, medium and few, against a plain reading of FedLoGe's rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.shots import shots_by_count, shots_by_share
from datasets.splits.longtail import LongTail


def by_the_rule(counts: list[int]) -> list[str]:
    """The last many class is the one in whose range (share before, share with it] 75 % falls; medium at 95 %."""
    order = sorted(range(len(counts)), key=lambda label: -counts[label])
    total, before, name, names = sum(counts), 0, "many", {}
    for label in order:
        names[label] = name
        with_it = before + counts[label]
        if before * 100 < 75 * total <= with_it * 100:
            name = "medium"
        if before * 100 < 95 * total <= with_it * 100:
            name = "few"
        before = with_it
    return [names[label] for label in range(len(counts))]


@given(st.lists(st.integers(0, 500), min_size=1, max_size=30).filter(any))
def test_classes_are_named_by_the_share_that_comes_before_them(counts: list[int]) -> None:
    assert shots_by_share(counts) == by_the_rule(counts)


def test_cifar10_lt_has_three_many_three_medium_and_four_few() -> None:
    sizes = [LongTail(0.01).size(5000, rank, 10) for rank in range(10)]
    assert shots_by_share(sizes) == ["many"] * 3 + ["medium"] * 3 + ["few"] * 4
    assert shots_by_share(sizes[::-1]) == ["few"] * 4 + ["medium"] * 3 + ["many"] * 3


@pytest.mark.parametrize(
    ("counts", "names"),
    [
        ([75, 20, 5], ["many", "medium", "few"]),  # the borders belong to what is before them
        ([74, 21, 5], ["many", "many", "few"]),
        ([1], ["many"]),
        ([0, 3, 0], ["few", "many", "few"]),
    ],
)
def test_borders(counts: list[int], names: list[str]) -> None:
    assert shots_by_share(np.array(counts)) == names


def test_by_count_many_have_more_than_a_hundred_images_and_few_fewer_than_twenty() -> None:
    assert shots_by_count([101, 100, 20, 19, 0]) == ["many", "medium", "medium", "few", "few"]
    cifar100 = [LongTail(0.01).size(500, rank, 100) for rank in range(100)]
    names = shots_by_count(cifar100)
    assert [names.count(name) for name in ("many", "medium", "few")] == [35, 35, 30]  # as in that literature's tables
