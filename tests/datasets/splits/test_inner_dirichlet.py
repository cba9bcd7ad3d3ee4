"""``inner_dirichlet``: sizes are exact, and the mixture of classes is the client's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.splits.inner_dirichlet import InnerDirichlet, _left
from datasets.splits.steps import even, sizes


def table(alpha: float, labels: np.ndarray, weights: np.ndarray, seed: int = 0) -> np.ndarray:
    owner = InnerDirichlet(alpha).divide(labels, weights, np.random.default_rng(seed))
    counts = np.zeros((len(weights), labels.max() + 1), int)
    np.add.at(counts, (owner, labels), 1)
    return counts


@settings(max_examples=60, deadline=None)
@given(
    held=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
    weights=st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any),
    alpha=st.sampled_from([1e-300, 1e-3, 0.5, 1e6]),
    seed=st.integers(0),
)
def test_sizes_are_exact_whatever_the_classes(held: list[int], weights: list[int], alpha: float, seed: int) -> None:
    """Also where a class is missing, where a client wants nothing of what is left and where it weighs nothing."""
    shares = np.array(weights) / sum(weights)
    labels = np.repeat(np.arange(len(held)), held)
    counts = table(alpha, labels, shares, seed)
    assert counts.sum(axis=1).tolist() == sizes(len(labels), shares).tolist()
    assert counts.sum(axis=0).tolist() == np.bincount(labels).tolist()


@pytest.mark.parametrize("order", [1, -1])
def test_a_large_alpha_mixes_evenly_as_long_as_there_is_enough_and_then_by_what_is_left(order: int) -> None:
    """The mixtures are even in the limit, so in an uneven pool everyone ends with the pool's own shares."""
    labels = np.repeat([0, 1, 2, 3], [4000, 3000, 2000, 1000][::order])
    shares = table(1e6, labels, even(5)) / 2000
    assert np.abs(shares - np.bincount(labels) / 10_000).max() < 0.03


@pytest.mark.parametrize("classes", [[0, 1, 2, 3], [1, 4, 5, 9]])
def test_a_small_alpha_gives_most_clients_one_class_even_if_others_are_missing(classes: list[int]) -> None:
    labels = np.repeat(classes, 10_000)
    # One client takes what the others do not want; they may have to share the class that it wants with it.
    small = np.array([0.005] * 20 + [0.9])
    shares = np.concatenate([table(0.01, labels, small, seed)[:20] / 200 for seed in range(5)])
    assert (shares.max(axis=1) > 0.9).mean() > 0.5
    assert set(shares.argmax(axis=1)) == set(classes)


def test_who_wants_nothing_of_what_is_left_takes_it_by_how_much_there_is() -> None:
    mixture = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    left = _left(mixture, np.array([0, 30, 10]))
    assert left.tolist() == [pytest.approx([0, 0.6, 0.4]), pytest.approx([0, 0.75, 0.25])]
