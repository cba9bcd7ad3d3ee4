"""Divergences between distributions of activations by channel, assumed to be normal distributions."""

import torch

FLOOR = 1e-5
"""Added to variances, as BatchNorm's epsilon, so that a channel that is constant for a client has a finite divergence.
"""


def mean_symmetric_kl(mean: torch.Tensor, variance: torch.Tensor) -> float:
    r"""Return the symmetric Kullback-Leibler divergence in nats, averaged over pairs and channels.

    Takes means and variances (K, channels) of K clients or domains. For a pair of normal distributions it is
    :math:`(KL(p \| q) + KL(q \| p)) / 2`. The sum over all ordered pairs is

    .. math:: \tfrac12 \left[ \sum_i v_i \sum_j 1 / v_j + \sum_j (S + K (m_j - \bar m)^2) / v_j - K^2 \right],
              \qquad S = \sum_i (m_i - \bar m)^2

    (the logarithms cancel), so the cost grows with K and not with its square. It is 0 for a single client.
    """
    count = len(mean)
    if count < 2:
        return 0.0
    mean, variance = mean.double(), variance.double() + FLOOR
    centred = mean - mean.mean(0)
    spread = centred.square().sum(0)
    pairs = variance.sum(0) * (1 / variance).sum(0) + ((spread + count * centred.square()) / variance).sum(0) - count**2
    return (pairs / 2).mean().item() / (count * (count - 1))


def symmetric_kl(
    mean: torch.Tensor, variance: torch.Tensor, other_mean: torch.Tensor, other_variance: torch.Tensor
) -> torch.Tensor:
    """Return :math:`(KL(p \\| q) + KL(q \\| p)) / 2` of two normal distributions, elementwise."""
    first, second = variance.double() + FLOOR, other_variance.double() + FLOOR
    squared = (mean.double() - other_mean.double()).square()
    return ((first + squared) / second + (second + squared) / first - 2) / 4


def mean_shift(mean: torch.Tensor, variance: torch.Tensor) -> float:
    """Return the mean absolute difference of clients' means (K, channels) from their mean, in standard deviations.

    The deviation of a channel is the root of the clients' mean variance; the mean is over clients and channels.
    """
    deviation = (variance.double().mean(0) + FLOOR).sqrt()
    return ((mean.double() - mean.double().mean(0)).abs() / deviation).mean().item()


def pooled(mean: torch.Tensor, variance: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance (channels,) of the union of clients' activations.

    Takes means and variances of K clients, (K, channels), and their numbers of images, (K,).
    """
    weights = (sizes.double() / sizes.sum())[:, None]
    together = (weights * mean.double()).sum(0)
    second = (weights * (variance.double() + mean.double().square())).sum(0)
    return together, (second - together.square()).clamp(min=0)
