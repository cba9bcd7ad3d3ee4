"""``split=dirichlet``: each class is divided among the clients by a draw from a Dirichlet distribution.

Yurochkin et al. 2019 (arXiv 1905.12022). Hsu et al. 2019 draw a mixture of classes for each client instead, see
``inner_dirichlet.py``.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datasets.source import Indices
from datasets.splits.steps import Dividing, Weights, deal
from fedsim.core.errors import UserError

ATTEMPTS = 200
DRAWN = 10**8
"""Number of drawn shares after which there is no further attempt: they take a quarter of a minute."""


@dataclass(frozen=True)
class Dirichlet(Dividing):
    """For each class c, p_c ~ Dir(alpha, ..., alpha) over the clients, times their weights.

    With ``assign=cut``, client k receives the share p_ck of the class's images, rounded up or down (NIID-Bench and most
    others); ``assign=sample`` draws each image's client from p_c (FedLoGe's code). With ``balance=true``, a client that
    already holds its share of all images receives no more (as in NIID-Bench, FedML and Flower). The whole draw is
    repeated until every client has ``min_size`` images, at most 200 times and fewer for millions of shares.
    """

    alpha: float = 0.5
    min_size: int = 1
    balance: bool = False
    assign: str = "cut"

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        check_min_size(self.min_size)
        if self.assign not in ("cut", "sample"):
            raise UserError(f"split.assign={self.assign} is not possible: choose cut or sample.")

    def divide(self, labels: Indices, weights: Weights, rng: np.random.Generator) -> Indices:
        class_sizes = np.bincount(labels)
        clients = len(weights)
        if len(labels) < self.min_size * clients:
            raise UserError(
                f"split.min_size={self.min_size} is not possible: "
                f"{len(labels)} images are too few for {clients} clients."
            )
        attempts = min(ATTEMPTS, -(-DRAWN // (len(class_sizes) * clients)))
        for _ in range(attempts):
            counts = self._draw(class_sizes, weights, rng)
            if counts.sum(axis=0).min() >= self.min_size:
                return deal(labels, counts, rng)
        raise UserError(
            f"split.min_size={self.min_size} was not met in {attempts} draws of {len(labels)} images for {clients} "
            f"clients with split.alpha={self.alpha}: choose a smaller min_size, a larger alpha or fewer clients."
        )

    def _draw(self, class_sizes: Indices, weights: Weights, rng: np.random.Generator) -> Indices:
        """Draw the numbers of images of each class for each client, (classes, clients)."""
        counts = np.zeros((len(class_sizes), len(weights)), np.int64)
        held = np.zeros(len(weights), np.int64)
        for label, images in enumerate(class_sizes):
            shares = rng.dirichlet(np.full(len(weights), self.alpha)) * weights
            if self.balance:
                open_ = held < weights * class_sizes.sum()
                shares = np.where(open_, shares, 0.0)
                if not shares.sum() > 0:
                    shares = open_ * weights
            elif not shares.sum() > 0:
                shares = weights
            counts[label] = self._whole(int(images), shares / shares.sum(), rng)
            held += counts[label]
        return counts

    def _whole(self, images: int, shares: npt.NDArray[np.float64], rng: np.random.Generator) -> Indices:
        if self.assign == "sample":
            return rng.multinomial(images, shares)
        # A random shift of the cuts makes the expected number of every client its exact share, however small; without
        # it the first clients would never get an image of a class that has fewer images than there are clients.
        cuts = np.floor(np.cumsum(shares)[:-1] * images + rng.random()).astype(np.int64)
        return np.diff(cuts, prepend=0, append=images)


def check_alpha(alpha: float) -> None:
    if not alpha > 0:
        raise UserError(f"split.alpha={alpha} is not possible: choose a number above 0.")


def check_min_size(min_size: int) -> None:
    if min_size < 0:
        raise UserError(f"split.min_size={min_size} is not possible: choose a whole number of at least 0.")
