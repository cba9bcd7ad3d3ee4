"""FRAug's distances and its losses of the transformation, against sums over all pairs of rows."""

import math

import pytest
import torch

from clients.feature_distances import DISTANCES, certainty, mean_cov, mmd, non_saturating


def sets(rows: int = 4, features: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    one = torch.rand(rows, features, generator=generator, dtype=torch.float64)
    return one, 2 * torch.rand(rows, features, generator=generator, dtype=torch.float64) - 0.3


def squared(one: torch.Tensor, other: torch.Tensor) -> float:
    return sum((float(a) - float(b)) ** 2 for a, b in zip(one, other, strict=True))


def test_mmd_is_the_sum_over_pairs_and_five_kernels() -> None:
    one, other = sets()
    rows = [*one, *other]
    mean = sum(squared(a, b) for a in rows for b in rows) / (8 * 7)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(math.exp(-squared(a, b) / (mean * 2.0**place)) for place in (-2, -1, 0, 1, 2))

    within = sum(kernel(a, b) for each in (one, other) for a in each for b in each)
    across = sum(kernel(a, b) for a in one for b in other)
    assert mmd(one, other).item() == pytest.approx((within - 2 * across) / 16, rel=1e-12)


def test_the_gradient_of_mmd_is_that_of_a_fixed_width() -> None:
    """By differences, with the mean distance of before."""
    one, other = sets()
    at = one.clone().requires_grad_()
    mmd(at, other).backward()
    mean = torch.cdist(torch.cat([one, other]), torch.cat([one, other])).square().sum() / 56

    def value(moved: torch.Tensor) -> torch.Tensor:
        both = torch.cat([moved, other])
        distances = torch.cdist(both, both).square()
        kernel = sum(torch.exp(-distances / (mean * 2.0**place)) for place in (-2, -1, 0, 1, 2))
        assert isinstance(kernel, torch.Tensor)
        return kernel[:4, :4].mean() + kernel[4:, 4:].mean() - 2 * kernel[:4, 4:].mean()

    for place in ((0, 0), (2, 1)):
        step = torch.zeros_like(one)
        step[place] = 1e-5
        slope = (value(one + step) - value(one - step)) / 2e-5
        assert at.grad is not None
        assert at.grad[place].item() == pytest.approx(slope.item(), rel=1e-6)


def test_mmd_of_equal_sets_is_zero_and_has_a_gradient_that_is_finite() -> None:
    one, _ = sets()
    same = torch.ones(3, 2, requires_grad=True)
    assert mmd(one, one.clone()).item() == pytest.approx(0, abs=1e-12)
    distance = mmd(same, torch.ones(3, 2))
    distance.backward()
    assert distance.item() == 0
    assert same.grad is not None
    assert same.grad.isfinite().all()


def test_mean_and_covariance_are_compared_number_by_number() -> None:
    one, other = torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([[1.0, 1.0], [1.0, 5.0]])
    # Means (1, 2) and (1, 3); covariances [[2, 2], [2, 2]] and [[0, 0], [0, 8]].
    assert mean_cov(one, other).item() == pytest.approx((0 + 1) / 2 + (4 + 4 + 4 + 36) / 4)


def test_means_are_those_of_the_columns_of_each_set() -> None:
    one, other = sets(rows=5)
    expected = sum((float(a) - float(b)) ** 2 for a, b in zip(one.sum(0) / 5, other.sum(0) / 5, strict=True)) / 3
    of_equal_covariance = one - one.mean(0) + other.mean(0)
    assert mean_cov(one, of_equal_covariance).item() == pytest.approx(expected, rel=1e-9)


def test_distances_of_rows_are_means_over_all_numbers() -> None:
    one, other = torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([[1.0, 1.0], [0.0, 6.0]])
    assert DISTANCES["l1"](one, other).item() == (1 + 0 + 2 + 3) / 4
    assert DISTANCES["l2"](one, other).item() == (1 + 0 + 4 + 9) / 4


def test_losses_of_the_transformation_are_those_of_two_classes_written_out() -> None:
    logits, labels = torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0]], dtype=torch.float64), torch.tensor([1, 1])
    entropies = [-(p * math.log(p) + (1 - p) * math.log(1 - p)) for p in (0.75, 0.8)]
    assert certainty(logits, labels).item() == pytest.approx(-sum(entropies) / 2)
    # Of label 1, smoothed to 0.05 and 0.95: p is (1/4, 3/4) and (4/5, 1/5).
    rows = [0.05 * math.log(0.75) + 0.95 * math.log(0.25), 0.05 * math.log(0.2) + 0.95 * math.log(0.8)]
    assert non_saturating(logits, labels).item() == pytest.approx(-sum(rows) / 2)
