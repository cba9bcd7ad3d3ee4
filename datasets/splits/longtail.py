"""``split=longtail``: the classes are thinned to an exponential long tail of sizes (Cui et al. 2019, arXiv
1901.05555)."""

from dataclasses import dataclass

import numpy as np

from datasets.source import Indices
from datasets.splits.steps import Keeping, places_by_class
from fedsim.core.errors import UserError


@dataclass(frozen=True)
class LongTail(Keeping):
    """Leaves n_c = floor(n_max * IF^(c/(C-1))) random images of the class of rank c = 0 ... C-1.

    n_max is the size of the pool's largest class and IF = ``imbalance_factor`` the share of it that the last class
    retains. A class that has fewer images retains all, and one that has any retains at least one. ``head=order`` ranks
    the classes by their labels, as in the published CIFAR-LT sets; ``head=permutation`` draws the ranks separately for
    each pool: after ``domain``, every domain has other head classes.
    """

    imbalance_factor: float = 0.01
    head: str = "order"

    def __post_init__(self) -> None:
        if not 0 < self.imbalance_factor <= 1:
            raise UserError(
                f"split.imbalance_factor={self.imbalance_factor} is not possible: "
                "choose a number above 0 and at most 1."
            )
        if self.head not in ("order", "permutation"):
            raise UserError(f"split.head={self.head} is not possible: choose order or permutation.")

    def keep(self, labels: Indices, num_classes: int, rng: np.random.Generator) -> Indices:
        ranks = rng.permutation(num_classes) if self.head == "permutation" else np.arange(num_classes)
        members = places_by_class(labels, num_classes)
        largest = max(map(len, members))
        kept = [
            rng.permutation(places)[: max(1, self.size(largest, int(rank), num_classes))]
            for places, rank in zip(members, ranks, strict=True)
        ]
        return np.sort(np.concatenate(kept))

    def size(self, largest: int, rank: int, num_classes: int) -> int:
        """Return n_c, without regard to how many images the class has."""
        exponent = rank / (num_classes - 1) if num_classes > 1 else 0.0
        return int(largest * self.imbalance_factor**exponent)
