"""``split=pathological``: every client holds images of a few classes only."""

from dataclasses import dataclass

import numpy as np

from datasets.source import Indices
from datasets.splits.steps import Dividing, Weights, deal, sizes
from fedsim.core.errors import UserError


@dataclass(frozen=True)
class Pathological(Dividing):
    """Assigns exactly ``classes_per_client`` classes to each client; the clients of a class share its images.

    If a class has fewer images than clients, as may happen at the end of a long tail, some of them receive none of it.
    Clients choose one after the other among the classes that were chosen least, at random among equals, so that every
    class is assigned, and all about equally often.
    """

    classes_per_client: int = 2

    def __post_init__(self) -> None:
        if self.classes_per_client < 1:
            raise UserError(
                f"split.classes_per_client={self.classes_per_client} is not possible: "
                "choose a whole number of at least 1."
            )

    def divide(self, labels: Indices, weights: Weights, rng: np.random.Generator) -> Indices:
        class_sizes = np.bincount(labels)
        present = np.flatnonzero(class_sizes)
        clients = len(weights)
        if self.classes_per_client > len(present):
            raise UserError(
                f"split.classes_per_client={self.classes_per_client} is not possible: "
                f"choose at most {len(present)}, the classes that there are."
            )
        if self.classes_per_client * clients < len(present):
            raise UserError(
                f"split.classes_per_client={self.classes_per_client} leaves classes out: {clients} clients hold "
                f"at most {self.classes_per_client * clients} of {len(present)}, so choose more of either."
            )
        holds = np.zeros((len(class_sizes), clients), bool)
        chosen = np.zeros(len(present), np.int64)
        for client in range(clients):
            mine = np.lexsort((rng.random(len(present)), chosen))[: self.classes_per_client]
            chosen[mine] += 1
            holds[present[mine], client] = True
        counts = np.zeros(holds.shape, np.int64)
        for label in present:
            counts[label, holds[label]] = sizes(int(class_sizes[label]), weights[holds[label]])
        return deal(labels, counts, rng)
