"""Mean and variance of the union of many sets of numbers, from the mean, variance and size of each."""

from collections.abc import Mapping

import torch

Tensors = Mapping[str, torch.Tensor]


class PooledMoments:
    r"""Accumulates sizes n_k, means :math:`\mu_k` and variances :math:`\sigma_k^2`, name by name, in float64.

    With :math:`n = \sum_k n_k` the mean of the union is :math:`\mu = \frac{1}{n} \sum_k n_k \mu_k`, and around a centre
    c, by default :math:`\mu`, its variance

    .. math:: \frac{1}{n - 1} \sum_k n_k \big( \sigma_k^2 + (\mu_k - c)^2 \big)
    """

    def __init__(self) -> None:
        self._firsts: dict[str, torch.Tensor] = {}
        self._seconds: dict[str, torch.Tensor] = {}
        self._size = 0.0

    def add(self, means: Tensors, variances: Tensors, size: float) -> None:
        """Add a set of ``size`` numbers; both arguments have the same names."""
        for name, mean in means.items():
            exact = mean.double()
            first, second = size * exact, size * (variances[name].double() + exact.square())
            self._firsts[name] = self._firsts[name] + first if name in self._firsts else first
            self._seconds[name] = self._seconds[name] + second if name in self._seconds else second
        self._size += size

    def mean(self) -> dict[str, torch.Tensor]:
        """Return the mean by name, in float64."""
        return {name: first / self._size for name, first in self._firsts.items()}

    def variance(self, centre: Tensors | None = None) -> dict[str, torch.Tensor]:
        """Return the variance by name, in float64, around ``centre`` or the mean; of a single number it is 0."""
        centres = self.mean() if centre is None else {name: each.double() for name, each in centre.items()}
        return {
            name: (second - 2 * centres[name] * self._firsts[name] + self._size * centres[name].square()).clamp(min=0)
            / max(self._size - 1, 1)
            for name, second in self._seconds.items()
        }
