"""The consensus against closed forms, an optimum found by trying, and the conditions that an optimum fulfils."""

import numpy as np
import pytest
import torch

from fedsim.aggregation.consensus import consensus, least_norm_weights


def gram(vectors: np.ndarray) -> np.ndarray:
    return vectors @ vectors.T


def test_of_two_vectors_it_is_the_closed_form() -> None:
    one, two = np.array([3.0, 1.0]), np.array([-1.0, 2.0])
    share = (two - one) @ two / ((one - two) @ (one - two))  # of the first one
    weights = least_norm_weights(gram(np.stack([one, two])))
    np.testing.assert_allclose(weights, [share, 1 - share], rtol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_the_weights_are_an_optimum(seed: int) -> None:
    """All vectors with a weight have the same product with the result, which no other has less of."""
    vectors = np.random.default_rng(seed).normal(0.3, 1, (6, 9))
    weights = least_norm_weights(gram(vectors))
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    products = vectors @ (weights @ vectors)
    np.testing.assert_allclose(products[weights > 1e-9], products.min(), rtol=1e-8)


def test_a_vector_that_the_others_agree_with_may_have_no_weight() -> None:
    weights = least_norm_weights(gram(np.array([[1.0, 0.0], [5.0, 1.0], [5.0, -1.0]])))
    np.testing.assert_allclose(weights, [1, 0, 0], atol=1e-12)


def test_the_step_has_the_mean_length_times_that_of_the_common_direction() -> None:
    updates = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])]
    step = consensus(updates)
    assert step.dtype == torch.float64
    torch.testing.assert_close(step, torch.tensor([[1.5, 1.5]]).double(), rtol=1e-7, atol=0)
    torch.testing.assert_close(consensus(updates[:1]), updates[0].double(), rtol=1e-7, atol=0)
    assert not consensus([torch.zeros(3), torch.zeros(3)]).any()
    opposite = consensus([torch.tensor([1.0]), torch.tensor([-3.0])])
    torch.testing.assert_close(opposite, torch.zeros(1).double(), rtol=0, atol=1e-7)
