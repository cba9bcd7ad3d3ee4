"""``shards``: contiguous pieces of the images sorted by class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.splits.shards import Shards
from datasets.splits.steps import even


def table(shards: int, labels: np.ndarray, weights: np.ndarray, seed: int = 0) -> np.ndarray:
    owner = Shards(shards).divide(labels, weights, np.random.default_rng(seed))
    counts = np.zeros((len(weights), labels.max() + 1), int)
    np.add.at(counts, (owner, labels), 1)
    return counts


@settings(max_examples=60, deadline=None)
@given(
    held=st.lists(st.integers(1, 50), min_size=1, max_size=8),
    shards=st.integers(1, 4),
    clients=st.integers(1, 8),
    seed=st.integers(0),
)
def test_sizes_are_even_and_only_borders_of_classes_add_classes(
    held: list[int], shards: int, clients: int, seed: int
) -> None:
    labels = np.repeat(np.arange(len(held)), held)
    counts = table(shards, labels, even(clients), seed)
    assert np.ptp(counts.sum(axis=1)) <= shards  # shards differ by at most one image
    # Of all shards, each border between two classes can lie in one.
    assert (counts > 0).sum() <= shards * clients + len(held) - 1


def test_a_client_has_one_class_for_each_shard_that_fits_into_a_class() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 120))
    for seed in range(10):
        counts = table(3, labels, even(20), seed)  # 60 shards of 20 images, six for each class
        assert (counts.sum(axis=1) == 60).all()
        assert ((counts > 0).sum(axis=1) <= 3).all()
        assert not (counts % 20).any()


def test_who_gets_which_shard_is_random() -> None:
    labels = np.repeat(np.arange(10), 100)
    tables = [table(2, labels, even(10), seed) for seed in range(3)]
    assert len({each.tobytes() for each in tables}) == 3
    assert any((each[0, 2:] > 0).any() for each in tables)  # not the first shards for the first client


def test_the_last_shard_is_not_always_the_short_one_of_the_same_client() -> None:
    labels = np.zeros(103, np.int64)
    shortest = {int(table(1, labels, even(4), seed).sum(axis=1).argmin()) for seed in range(20)}
    assert len(shortest) > 1


def test_a_client_of_twice_the_weight_has_shards_of_twice_the_size() -> None:
    labels = np.repeat(np.arange(6), 100)
    weights = np.array([2, 1, 1, 2]) / 6
    counts = table(2, labels, weights)
    assert counts.sum(axis=1).tolist() == pytest.approx((600 * weights).tolist(), abs=2)
    owner = Shards(1).divide(labels, weights, np.random.default_rng(0))
    assert np.bincount(owner).tolist() == [200, 100, 100, 200]
