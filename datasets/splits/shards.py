"""``split=shards``: the images are sorted by class and cut into shards, which are dealt to the clients.

McMahan et al. 2017, arXiv 1602.05629.
"""

from dataclasses import dataclass

import numpy as np

from datasets.source import Indices
from datasets.splits.steps import Dividing, Weights, sizes
from fedsim.core.errors import UserError


@dataclass(frozen=True)
class Shards(Dividing):
    """Deals ``shards_per_client`` shards to each client, of equal size or in proportion to ``quantity``'s weights."""

    shards_per_client: int = 2

    def __post_init__(self) -> None:
        if self.shards_per_client < 1:
            raise UserError(
                f"split.shards_per_client={self.shards_per_client} is not possible: "
                "choose a whole number of at least 1."
            )

    def divide(self, labels: Indices, weights: Weights, rng: np.random.Generator) -> Indices:
        shuffled = rng.permutation(len(labels))
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        owner_of_shard = rng.permutation(np.repeat(np.arange(len(weights)), self.shards_per_client))
        owner = np.empty(len(labels), np.int64)
        owner[by_class] = np.repeat(owner_of_shard, sizes(len(labels), weights[owner_of_shard]))
        return owner
