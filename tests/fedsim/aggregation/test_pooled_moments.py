"""Pooled moments against numpy on the union of the numbers."""

import numpy as np
import torch

from fedsim.aggregation import PooledMoments


def pooled(sets: list[np.ndarray]) -> PooledMoments:
    moments = PooledMoments()
    for numbers in sets:
        mean, variance = (torch.from_numpy(each).float() for each in (numbers.mean(0), numbers.var(0)))
        moments.add({"a": mean}, {"a": variance}, len(numbers))
    return moments


def test_they_are_those_of_the_union() -> None:
    generator = np.random.default_rng(0)
    sets = [generator.normal(3 * shift, 1 + shift, (size, 4)) for shift, size in enumerate((5, 9, 2))]
    union, moments = np.concatenate(sets), pooled(sets)
    assert moments.mean()["a"].dtype == moments.variance()["a"].dtype == torch.float64
    np.testing.assert_allclose(moments.mean()["a"], union.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.variance()["a"], union.var(0, ddof=1), rtol=1e-5)


def test_the_variance_may_be_around_another_centre() -> None:
    sets = [np.array([[1.0], [3.0]]), np.array([[5.0], [5.0], [8.0]])]
    around = pooled(sets).variance({"a": torch.tensor([2.0])})["a"]
    np.testing.assert_allclose(around, [(1 + 1 + 9 + 9 + 36) / 4], rtol=1e-6)


def test_of_two_numbers_the_variance_is_the_samples() -> None:
    numbers = np.array([[1.0], [4.0]])
    np.testing.assert_allclose(pooled([numbers]).variance()["a"], numbers.var(0, ddof=1), rtol=1e-6)


def test_a_single_number_has_no_variance() -> None:
    assert pooled([np.array([[7.0]])]).variance()["a"].tolist() == [0.0]
