"""Closed forms against sums over pairs."""

from itertools import permutations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from fedsim.diagnostics.divergence import FLOOR, mean_shift, mean_symmetric_kl, pooled, symmetric_kl


@pytest.fixture
def statistics() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    return mean, torch.rand(5, 7, generator=generator, dtype=torch.float64) + 0.1


def test_the_mean_over_pairs_is_the_sum_over_all_of_them(statistics: tuple[torch.Tensor, torch.Tensor]) -> None:
    normals = [Normal(mean, (variance + FLOOR).sqrt()) for mean, variance in zip(*statistics, strict=True)]
    expected = torch.stack([kl_divergence(p, q).mean() for p, q in permutations(normals, 2)]).mean()
    assert mean_symmetric_kl(*statistics) == pytest.approx(expected.item(), rel=1e-12)


def test_one_client_is_not_apart_from_itself(statistics: tuple[torch.Tensor, torch.Tensor]) -> None:
    mean, variance = statistics
    assert mean_symmetric_kl(mean[:1], variance[:1]) == 0.0
    same = mean_symmetric_kl(mean[:1].expand(4, -1), variance[:1].expand(4, -1))
    assert same == pytest.approx(0.0, abs=1e-12)


def test_an_affine_map_of_all_clients_changes_nothing(statistics: tuple[torch.Tensor, torch.Tensor]) -> None:
    """What BatchNorm with shared statistics does at evaluation."""
    mean, variance = statistics
    scale = 1e4  # so that the floor does not matter
    assert mean_symmetric_kl(scale * mean + 3, scale**2 * variance) == pytest.approx(
        mean_symmetric_kl(mean, variance), rel=1e-3
    )


def test_two_distributions(statistics: tuple[torch.Tensor, torch.Tensor]) -> None:
    mean, variance = statistics
    p, q = (Normal(mean[k], (variance[k] + FLOOR).sqrt()) for k in (0, 1))
    expected = (kl_divergence(p, q) + kl_divergence(q, p)) / 2
    torch.testing.assert_close(symmetric_kl(mean[0], variance[0], mean[1], variance[1]), expected)


def test_means_shift_in_deviations() -> None:
    mean = torch.tensor([[0.0], [4.0]])
    variance = torch.tensor([[3.0], [5.0]])  # the mean of 4 is a deviation of 2
    assert mean_shift(mean, variance) == pytest.approx(1.0, rel=1e-5)


def test_pooled_statistics_are_those_of_the_union() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(size, 3, generator=generator, dtype=torch.float64) + size for size in (4, 9)]
    mean, variance = pooled(
        torch.stack([part.mean(0) for part in parts]),
        torch.stack([part.var(0, correction=0) for part in parts]),
        torch.tensor([4.0, 9.0]),
    )
    union = torch.cat(parts)
    torch.testing.assert_close(mean, union.mean(0))
    torch.testing.assert_close(variance, union.var(0, correction=0))
