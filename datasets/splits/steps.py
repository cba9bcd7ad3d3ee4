"""What the steps of a split do: five kinds, one file for each step.

A split begins with one *pool*, all training images. A step that **groups** divides each pool by something that is known
of its images; one that **keeps** takes some of a pool's images away; one that **divides** deals a pool's images out to
its clients. A step that **weighs** says how large the clients are meant to be, and one that **disturbs** changes their
images. Every draw comes from the generator that it is handed, one for each step and pool.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datasets.source import Indices, Source

Weights = npt.NDArray[np.float64]
"""(clients,), with sum 1: the share of a pool's images that each is meant to hold"""


@dataclass(frozen=True)
class Pool:
    """Training images that are handled together."""

    name: str
    """Tells the pool's draws from those of others; does not depend on the order of the pools"""
    domain: str | None
    """A domain's name; None for images of several"""
    train: Indices
    natural_test: Indices | None = None
    """Test images that belong to these training images by nature: the same writer's"""


class Grouping(ABC):
    @abstractmethod
    def group(self, pool: Pool, source: Source) -> list[Pool]:
        """Pools without a common image that hold the images of ``pool``."""


class Keeping(ABC):
    @abstractmethod
    def keep(self, labels: Indices, num_classes: int, rng: np.random.Generator) -> Indices:
        """Places of the images that stay, ascending."""


class Dividing(ABC):
    @abstractmethod
    def divide(self, labels: Indices, weights: Weights, rng: np.random.Generator) -> Indices:
        """The client, from 0, of each of the images whose labels are given; so none is lost and none dealt twice.

        Errors: ``UserError`` if the options leave no way to do it.
        """


class Weighing(ABC):
    @abstractmethod
    def weights(self, clients: int, images: int, rng: np.random.Generator) -> Weights: ...


class Disturbing(ABC):
    @abstractmethod
    def deviations(self, clients: int) -> npt.NDArray[np.float64]:
        """(clients,), the standard deviation of the noise on each client's images, in units of the pixels' range."""


Step = Grouping | Keeping | Dividing | Weighing | Disturbing


def even(clients: int) -> Weights:
    return np.full(clients, 1 / clients)


def sizes(images: int, weights: Weights) -> Indices:
    """``images`` shared out by ``weights`` without a remainder: the largest fractions are rounded up, the first of
    equals.

    Equal weights give sizes that differ by at most one, the larger ones first; weights that are all zero, as those of
    some clients may be, are equal too.
    """
    weights = weights if weights.any() else even(len(weights))
    exact = images * weights / weights.sum()
    # Rounded, so that what is equal but for the last bit is equal.
    counts: Indices = np.floor(exact.round(9)).astype(np.int64)
    order = np.argsort(-(exact - counts).round(9), kind="stable")
    counts[order[: images - counts.sum()]] += 1
    return counts


def deal(labels: Indices, counts: Indices, rng: np.random.Generator) -> Indices:
    """The client of each image, at random: ``counts[c, k]`` images of class c for client k.

    ``counts`` (classes, clients) must share out every class that is there without a remainder.
    """
    owner = np.empty(len(labels), np.int64)
    clients = np.arange(counts.shape[1])
    for label, members in enumerate(places_by_class(labels, len(counts))):
        owner[rng.permutation(members)] = np.repeat(clients, counts[label])
    return owner


def places_by_class(labels: Indices, num_classes: int) -> list[Indices]:
    """For each class the places of its images, ascending."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels, minlength=num_classes))[:-1])
