"""The federation: a source, and which of its images each client trains and is tested on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from datasets.examples import Examples
from datasets.source import Indices, Part, Source

NONE: Indices = np.empty(0, np.int64)
MIXED = "mixed"
"""The name in tables for the domain of a client whose images are of several domains; see ``domain_of``"""


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


class Federation:
    """The source and its partitions; client ids count from zero."""

    on_devices = False
    """Whether the images are on devices, where only the clients can read them (``datasets/devices.py``)"""

    def __init__(
        self, source: Source, partitions: Sequence[Partition], unseen: Sequence[str] = (), *, pooled: bool = False
    ) -> None:
        """Make a federation.

        Args:
            source: The images.
            partitions: Which of them are whose.
            unseen: Domains that nobody trains on and only the global model is tested on.
            pooled: Whether every client trains on the training images of all, as if they were in one place.
        """
        self.pooled = pooled
        self.source = source
        self.partitions = tuple(partitions)
        held = {partition.domain for partition in self.partitions}
        seen = [name for name in source.domain_names if name not in unseen and (name in held or None in held)]
        self.domain_tests = {name: self._test(name) for name in seen}
        """The test images of each domain that a client belongs to; global accuracy is measured on their union."""
        self.unseen_tests = {name: self._test(name) for name in unseen}
        """The test images of each domain that was left out."""

    def _test(self, domain: str) -> Indices:
        return self.source.indices(self.source.domain_names.index(domain), Part.TEST)

    @property
    def clients(self) -> range:
        return range(len(self.partitions))

    @cached_property
    def validated(self) -> frozenset[int]:
        """The clients that have validation images."""
        return frozenset(partition.client for partition in self.partitions if len(partition.validation))

    @property
    def num_classes(self) -> int:
        return self.source.num_classes

    @property
    def domain_hosts(self) -> list[tuple[str, int]]:
        """Each domain, with a client that can test the global model on its test images."""
        first: dict[str | None, int] = {each.domain: each.client for each in reversed(self.partitions)}
        return [(name, first.get(name, 0)) for name in (*self.domain_tests, *self.unseen_tests)]

    def domain_of(self, client: int) -> str:
        """Return the name of the client's domain for tables; for several domains ``mixed``.

        If a domain has that name itself, ``mixed`` is put in parentheses.
        """
        domain = self.partitions[client].domain
        return self._mixed if domain is None else domain

    @cached_property
    def _mixed(self) -> str:
        name = MIXED
        while name in self.source.domain_names:
            name = f"({name})"
        return name

    def test_domains(self, client: int, by_batch: bool = False) -> tuple[str, ...]:
        """Return the domains whose test sets together are the client's, so that one evaluation serves both.

        There are none if the client has own test images or noise. ``by_batch`` is for models whose predictions depend
        on the batch: a client of several domains is then tested on batches that mix the domains, while a domain is
        tested on batches of its own, so that there are none for such a client.
        """
        partition = self.partitions[client]
        if partition.test is not None or partition.noise is not None:
            return ()
        names = tuple(self.domain_tests) if partition.domain is None else (partition.domain,)
        return () if by_batch and len(names) > 1 else names

    def examples(self, indices: Indices) -> Examples:
        return Examples(
            torch.from_numpy(self.source.images[indices]),
            torch.from_numpy(self.source.labels[indices]),
            self.source.transform,
        )

    @cached_property
    def _all_tests(self) -> Indices:
        return np.concatenate(list(self.domain_tests.values()))

    def trained_on(self, domains: Iterable[str]) -> Examples:
        """Return the training images of these domains that any client holds, without the clients' noise."""
        train = np.concatenate([partition.train for partition in self.partitions])
        numbers = [self.source.domain_names.index(domain) for domain in domains]
        return self.examples(train[np.isin(self.source.domains[train], numbers)])

    def examples_of(self, client: int, part: Part) -> Examples:
        """Return the images that the client trains, is validated or is tested on, with the client's noise."""
        if self.pooled and part is Part.TRAIN:
            return self._pool
        return self._own_examples(self.partitions[client], part)

    def _own_examples(self, partition: Partition, part: Part) -> Examples:
        own = partition.train if part is Part.TRAIN else self._indices_of(partition, part)
        examples = self.examples(own)
        if partition.noise is None:
            return examples
        return replace(examples, images=partition.noise.added(examples.images, part))

    @cached_property
    def _pool(self) -> Examples:
        """The training images of all clients, each with its client's noise, in the order of the source."""
        parts = [self._own_examples(partition, Part.TRAIN) for partition in self.partitions]
        order = torch.from_numpy(np.argsort(np.concatenate([each.train for each in self.partitions]), kind="stable"))
        images, labels = (torch.cat([getattr(each, name) for each in parts])[order] for name in ("images", "labels"))
        return Examples(images, labels, self.source.transform)

    @cached_property
    def _all_train(self) -> Indices:
        return np.sort(np.concatenate([partition.train for partition in self.partitions]))

    def indices(self, client: int, part: Part) -> Indices:
        """Return the indices of that part of the client's images; clients with the same test set share one array."""
        return self._indices_of(self.partitions[client], part)

    def _indices_of(self, partition: Partition, part: Part) -> Indices:
        if part is Part.TRAIN:
            return self._all_train if self.pooled else partition.train
        if part is Part.VALIDATION:
            return partition.validation
        if partition.test is not None:
            return partition.test
        if partition.domain is None:
            return self._all_tests
        return self.domain_tests[partition.domain]

    def domain_examples(self, domain: str) -> Examples:
        """Return the test images of a domain, also of one that was left out."""
        return self.examples({**self.domain_tests, **self.unseen_tests}[domain])

    def num_images(self, client: int, part: Part) -> int:
        return len(self._indices_of(self.partitions[client], part))

    def label_counts(self) -> npt.NDArray[np.int64]:
        """Return the numbers of training images per client and class, (clients, classes)."""
        owner = np.repeat(np.arange(len(self.partitions)), [len(p.train) for p in self.partitions])
        labels = self.source.labels[np.concatenate([p.train for p in self.partitions])]
        cells = np.bincount(owner * self.num_classes + labels, minlength=len(self.partitions) * self.num_classes)
        return cells.reshape(len(self.partitions), self.num_classes)
