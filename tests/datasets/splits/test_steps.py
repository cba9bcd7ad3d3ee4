"""The whole numbers behind every split, against fractions that are not rounded."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.splits.steps import deal, even, places_by_class, sizes


def largest_remainders(images: int, weights: list[int]) -> list[int]:
    """Rounded down, then one more for the largest fractions, the first of equals."""
    exact = [Fraction(images * weight, sum(weights)) for weight in weights]
    given_out = [int(share) for share in exact]
    order = sorted(range(len(weights)), key=lambda client: (given_out[client] - exact[client], client))
    for client in order[: images - sum(given_out)]:
        given_out[client] += 1
    return given_out


@settings(max_examples=300, deadline=None)
@given(images=st.integers(0, 5000), weights=st.lists(st.integers(0, 60), min_size=1, max_size=40).filter(any))
def test_sizes_are_those_of_exact_fractions(images: int, weights: list[int]) -> None:
    shares = np.array(weights) / sum(weights)
    assert sizes(images, shares).tolist() == largest_remainders(images, weights)


def test_clients_whose_weights_are_all_zero_share_alike() -> None:
    """A small size_alpha makes weights of exactly zero, and the clients that hold a class may have no others."""
    assert sizes(7, np.zeros(3)).tolist() == [3, 2, 2]


@pytest.mark.parametrize("clients", [1, 3, 7, 1000])
def test_even_weights_add_up_to_one(clients: int) -> None:
    assert even(clients).sum() == pytest.approx(1)
    assert len(set(even(clients).tolist())) == 1


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(0, 6), max_size=60))
def test_places_are_those_of_a_loop(labels: list[int]) -> None:
    found = [places.tolist() for places in places_by_class(np.array(labels, np.int64), 8)]
    assert found == [[place for place, label in enumerate(labels) if label == wanted] for wanted in range(8)]


@settings(max_examples=60, deadline=None)
@given(table=st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=1, max_size=5), seed=st.integers(0))
def test_what_is_dealt_is_what_was_counted(table: list[list[int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(table)), [sum(row) for row in table]))
    owner = deal(labels, np.array(table), rng)
    for label, row in enumerate(table):
        assert [int(((labels == label) & (owner == client)).sum()) for client in range(3)] == row


def test_which_images_are_dealt_to_whom_is_random() -> None:
    labels, counts = np.zeros(1000, np.int64), np.array([[500, 500]])
    owners = [deal(labels, counts, np.random.default_rng(seed)) for seed in range(2)]
    assert not np.array_equal(*owners)
    assert 400 < np.flatnonzero(owners[0] == 0).mean() < 600
