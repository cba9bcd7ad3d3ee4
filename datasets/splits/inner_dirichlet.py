"""``split=inner_dirichlet``: the clients' sizes are fixed, and each draws its own mixture of classes (Hsu et al. 2019,
FedDyn)."""

from dataclasses import dataclass

import numpy as np

from datasets.source import Indices
from datasets.splits.dirichlet import check_alpha
from datasets.splits.steps import Dividing, Weights, deal, sizes


@dataclass(frozen=True)
class InnerDirichlet(Dividing):
    """For each client k, q_k ~ Dir(alpha, ..., alpha) over the classes of the pool.

    All clients are served at once: each requests the numbers of a multinomial draw from its mixture. If the requests
    for a class exceed its images, these go to random requests; clients that lack images repeat the draw over the
    classes that are left. FedDyn's code serves one random client with one image at a time, to the same end.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def divide(self, labels: Indices, weights: Weights, rng: np.random.Generator) -> Indices:
        stock = np.bincount(labels)
        wanted = sizes(len(labels), weights)
        mixture = np.zeros((len(weights), len(stock)))
        mixture[:, stock > 0] = rng.dirichlet(np.full(int((stock > 0).sum()), self.alpha), len(weights))
        counts = np.zeros((len(stock), len(weights)), np.int64)
        while wanted.any():
            asked = rng.multinomial(wanted, _left(mixture, stock)).T
            for label in np.flatnonzero(asked.sum(axis=1)):
                given = asked[label]
                if given.sum() > stock[label]:
                    given = rng.multivariate_hypergeometric(given, int(stock[label]), method="marginals")
                counts[label] += given
                stock[label] -= given.sum()
                wanted -= given
        return deal(labels, counts, rng)


def _left(mixture: Weights, stock: Indices) -> Weights:
    """Return the mixtures restricted to the classes with images left.

    A client whose mixture has none of these classes gets them in proportion to the images left.
    """
    left = np.where(stock > 0, mixture, 0.0)
    total = left.sum(axis=1, keepdims=True)
    by_stock = stock / stock.sum()
    return np.where(total > 0, left / np.where(total > 0, total, 1.0), by_stock)
