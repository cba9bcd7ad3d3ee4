"""``split=quantity``: clients have different numbers of images."""

from dataclasses import dataclass

import numpy as np

from datasets.splits.dirichlet import ATTEMPTS, check_min_size
from datasets.splits.steps import Weighing, Weights
from fedsim.core.errors import UserError


@dataclass(frozen=True)
class Quantity(Weighing):
    """Draws the weights of a pool's clients, which the dividing step uses.

    ``sizes=dirichlet`` draws them from Dir(size_alpha, ..., size_alpha) (NIID-Bench, Li et al. 2022, arXiv 2102.02079),
    at most 200 times until the smallest amounts to ``min_size`` images; ``sizes=power_law`` makes them proportional to
    rank^(-size_exponent), with the ranks in random order.
    """

    sizes: str = "dirichlet"
    size_alpha: float = 0.5
    size_exponent: float = 1.0
    min_size: int = 1

    def __post_init__(self) -> None:
        if self.sizes not in ("dirichlet", "power_law"):
            raise UserError(f"split.sizes={self.sizes} is not possible: choose dirichlet or power_law.")
        for key, value in (("size_alpha", self.size_alpha), ("size_exponent", self.size_exponent)):
            if not 0 < value < np.inf:
                raise UserError(f"split.{key}={value} is not possible: choose a finite number above 0.")
        check_min_size(self.min_size)

    def weights(self, clients: int, images: int, rng: np.random.Generator) -> Weights:
        if self.sizes == "power_law":
            weights = rng.permutation(np.arange(1, clients + 1.0) ** -self.size_exponent)
            return self._enough(weights / weights.sum(), images)
        for _ in range(ATTEMPTS):
            weights = rng.dirichlet(np.full(clients, self.size_alpha))
            if weights.min() * images >= self.min_size:
                return weights
        return self._enough(weights, images)

    def _enough(self, weights: Weights, images: int) -> Weights:
        if weights.min() * images < self.min_size:
            raise UserError(
                f"split.min_size={self.min_size} is not met by split.sizes={self.sizes} for {len(weights)} clients and "
                f"{images} images: choose a smaller min_size, fewer clients or less different sizes."
            )
        return weights
