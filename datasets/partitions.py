"""Which images each client has: indices into the source."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar, overload

import numpy as np
import torch

from datasets.source import Indices, Part

NONE: Indices = np.empty(0, np.int64)
ABSENT = -1
Result = TypeVar("Result")


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on all images of a client, the same each time they are used."""

    deviation: float
    """Standard deviation, in units of the pixels' range"""
    seed: int

    def added(self, images: torch.Tensor, part: Part) -> torch.Tensor:
        """Return the uint8 images with noise as uint8, rounded and clipped to the range of pixels."""
        rng = np.random.default_rng([self.seed, part])
        noise = rng.standard_normal(images.shape, np.float32) * np.float32(255 * self.deviation)
        return (images.float() + torch.from_numpy(noise)).round_().clamp_(0, 255).byte()


@dataclass(frozen=True)
class Partition:
    """One client's images: indices into the source."""

    client: int
    domain: str | None
    """The name of its domain; ``None`` if its images are of several"""
    train: Indices
    test: Indices | None = None
    """Its own test images; ``None`` for the whole test set of its domain, or of all domains if it is mixed"""
    validation: Indices = field(default_factory=lambda: NONE)
    noise: Noise | None = None


class Partitions(Sequence[Partition]):
    """The partitions of all clients, in a few arrays, which is how every worker is sent them and keeps them.

    A ``Partition`` is made when it is asked for; its indices are views.
    """

    def __init__(self, partitions: Iterable[Partition]) -> None:
        given = list(partitions)
        if [each.client for each in given] != list(range(len(given))):
            raise ValueError("partitions are in the order of their clients, which count from zero")
        self.domains = tuple(each.domain for each in given)
        self.noise = tuple(each.noise for each in given)
        self.train = IndexLists([each.train for each in given])
        self.test = IndexLists([each.test for each in given])
        self.validation = IndexLists([each.validation for each in given])

    def __len__(self) -> int:
        return len(self.domains)

    @overload
    def __getitem__(self, client: int) -> Partition: ...
    @overload
    def __getitem__(self, client: slice) -> list[Partition]: ...
    def __getitem__(self, client: int | slice) -> Partition | list[Partition]:
        if isinstance(client, slice):
            return [self[each] for each in range(len(self))[client]]
        number = range(len(self))[client]
        train, validation = self.train.of(number), self.validation.of(number)
        return Partition(number, self.domains[number], train, self.test[number], validation, self.noise[number])


class IndexLists:
    """A list of indices for each client, or ``None``, one behind the other in one array.

    A list that several clients share, as the validation images of their domain, is there once.
    """

    def __init__(self, lists: Sequence[Indices | None]) -> None:
        distinct = {id(each): each for each in lists if each is not None}
        place = {key: number for number, key in enumerate(distinct)}
        self._place = np.array([ABSENT if each is None else place[id(each)] for each in lists], np.int64)
        self._ends = np.cumsum([0, *map(len, distinct.values())])
        self.indices: Indices = np.concatenate([NONE, *distinct.values()])
        """All lists"""

    def __getitem__(self, client: int) -> Indices | None:
        return None if self._place[client] == ABSENT else self.of(client)

    def of(self, client: int) -> Indices:
        """Return the list of a client that has one."""
        place = self._place[client]
        return self.indices[self._ends[place] : self._ends[place + 1]]

    def each(self, function: Callable[[Indices], Result]) -> list[Result | None]:
        """Return what a function returns for each client's list, not ``None``, called once for all that share one."""
        results = [function(self.indices[start:end]) for start, end in pairwise(self._ends.tolist())]
        return [None if place == ABSENT else results[place] for place in self._place.tolist()]

    def joined(self) -> Indices:
        """Return the lists of all clients, each of which has one, as one."""
        return np.concatenate([NONE, *map(self.of, range(len(self._place)))])
