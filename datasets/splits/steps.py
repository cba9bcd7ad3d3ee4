"""The five kinds of steps of a split; each step is a module.

A split begins with one *pool*, all training images. A step that **groups** divides each pool by a property of its
images; one that **keeps** removes some of a pool's images; one that **divides** deals a pool's images to its clients. A
step that **weighs** determines how large the clients should be, and one that **disturbs** changes their images. A step
draws only from the generator that it is passed, one for each step and pool.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datasets.source import Indices, Source

Weights = npt.NDArray[np.float64]
"""(clients,), with sum 1: the share of a pool's images that each client should hold"""


@dataclass(frozen=True)
class Pool:
    """Training images that steps process together."""

    name: str
    """Makes the pool's draws differ from those of others; does not depend on the order of the pools"""
    domain: str | None
    """The name of the domain; ``None`` for images of several"""
    train: Indices
    natural_test: Indices | None = None
    """Test images with the same natural id as these training images, such as the same writer"""


class Grouping(ABC):
    @abstractmethod
    def group(self, pool: Pool, source: Source) -> list[Pool]:
        """Return disjoint pools that together hold the images of ``pool``."""


class Keeping(ABC):
    @abstractmethod
    def keep(self, labels: Indices, num_classes: int, rng: np.random.Generator) -> Indices:
        """Return the indices of the images that stay, ascending."""


class Dividing(ABC):
    @abstractmethod
    def divide(self, labels: Indices, weights: Weights, rng: np.random.Generator) -> Indices:
        """Return the client, from 0, of each image; so no image can be lost or dealt twice.

        Args:
            labels: The label of each image, (images,).
            weights: The share of the images that each client should hold, (clients,).
            rng: The generator for all draws.

        Raises:
            UserError: If the options make a division impossible.
        """


class Weighing(ABC):
    @abstractmethod
    def weights(self, clients: int, images: int, rng: np.random.Generator) -> Weights: ...


class Disturbing(ABC):
    @abstractmethod
    def deviations(self, clients: int) -> npt.NDArray[np.float64]:
        """Return the standard deviation of the noise of each client, (clients,), in units of the pixels' range."""


Step = Grouping | Keeping | Dividing | Weighing | Disturbing


def even(clients: int) -> Weights:
    return np.full(clients, 1 / clients)


def sizes(images: int, weights: Weights) -> Indices:
    """Return sizes in proportion to ``weights`` that add up to ``images``.

    The largest fractions are rounded up, of equal ones the first. Equal weights result in sizes that differ by at most
    one, the larger ones first; weights that are all zero, as may happen for some of the clients, count as equal.
    """
    weights = weights if weights.any() else even(len(weights))
    exact = images * weights / weights.sum()
    # Rounded, so that numbers that differ only in their last bits count as equal.
    counts: Indices = np.floor(exact.round(9)).astype(np.int64)
    order = np.argsort(-(exact - counts).round(9), kind="stable")
    counts[order[: images - counts.sum()]] += 1
    return counts


def deal(labels: Indices, counts: Indices, rng: np.random.Generator) -> Indices:
    """Return the client of each image, at random: ``counts[c, k]`` images of class c for client k.

    The row of each class in ``counts`` (classes, clients) must add up to the number of its images.
    """
    owner = np.empty(len(labels), np.int64)
    clients = np.arange(counts.shape[1])
    for label, members in enumerate(places_by_class(labels, len(counts))):
        owner[rng.permutation(members)] = np.repeat(clients, counts[label])
    return owner


def places_by_class(labels: Indices, num_classes: int) -> list[Indices]:
    """Return for each class the indices of its images, ascending."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.cumsum(np.bincount(labels, minlength=num_classes))[:-1])
