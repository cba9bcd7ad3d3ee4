"""``split=iid``: every client's images are drawn at random."""

import numpy as np

from datasets.source import Indices
from datasets.splits.steps import Dividing, Weights, sizes


class Iid(Dividing):
    """Deals images at random, to sizes that differ by at most one, or to those that ``quantity`` draws.

    It is also used where no other step divides.
    """

    def divide(self, labels: Indices, weights: Weights, rng: np.random.Generator) -> Indices:
        owner = np.empty(len(labels), np.int64)
        owner[rng.permutation(len(labels))] = np.repeat(np.arange(len(weights)), sizes(len(labels), weights))
        return owner
