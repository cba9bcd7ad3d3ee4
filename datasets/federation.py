"""The federation: a source, and which of its images each client trains and is tested on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from datasets.examples import Examples
from datasets.partitions import Partition, Partitions, Result
from datasets.source import Indices, Part, Source

MIXED = "mixed"
"""The name in tables for the domain of a client whose images are of several domains; see ``domain_of``"""


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
        self.partitions = Partitions(partitions)
        held = set(self.partitions.domains)
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
        return frozenset(client for client in self.clients if self.num_images(client, Part.VALIDATION))

    @property
    def num_classes(self) -> int:
        return self.source.num_classes

    @property
    def domain_hosts(self) -> list[tuple[str, int]]:
        """Each domain, with a client that can test the global model on its test images."""
        first: dict[str | None, int] = {}
        for client, domain in enumerate(self.partitions.domains):
            first.setdefault(domain, client)
        return [(name, first.get(name, 0)) for name in (*self.domain_tests, *self.unseen_tests)]

    def domain_of(self, client: int) -> str:
        """Return the name of the client's domain for tables; for several domains ``mixed``.

        If a domain has that name itself, ``mixed`` is put in parentheses.
        """
        domain = self.partitions.domains[client]
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
        if self.partitions.test[client] is not None or self.partitions.noise[client] is not None:
            return ()
        domain = self.partitions.domains[client]
        names = tuple(self.domain_tests) if domain is None else (domain,)
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
        train = self.partitions.train.joined()
        numbers = [self.source.domain_names.index(domain) for domain in domains]
        return self.examples(train[np.isin(self.source.domains[train], numbers)])

    def examples_of(self, client: int, part: Part) -> Examples:
        """Return the images that the client trains, is validated or is tested on, with the client's noise."""
        if self.pooled and part is Part.TRAIN:
            return self._pool
        return self._own_examples(client, part)

    def _own_examples(self, client: int, part: Part) -> Examples:
        examples, noise = self.examples(self._own_indices(client, part)), self.partitions.noise[client]
        return examples if noise is None else replace(examples, images=noise.added(examples.images, part))

    @cached_property
    def _pool(self) -> Examples:
        """The training images of all clients, each with its client's noise, in the order of the source."""
        parts = [self._own_examples(client, Part.TRAIN) for client in self.clients]
        order = torch.from_numpy(np.argsort(self.partitions.train.joined(), kind="stable"))
        images, labels = (torch.cat([getattr(each, name) for each in parts])[order] for name in ("images", "labels"))
        return Examples(images, labels, self.source.transform)

    @cached_property
    def _all_train(self) -> Indices:
        return np.sort(self.partitions.train.joined())

    def indices(self, client: int, part: Part) -> Indices:
        """Return the indices of that part of the client's images."""
        return self._all_train if self.pooled and part is Part.TRAIN else self._own_indices(client, part)

    def _own_indices(self, client: int, part: Part) -> Indices:
        if part is not Part.TEST:
            return (self.partitions.train if part is Part.TRAIN else self.partitions.validation).of(client)
        own = self.partitions.test[client]
        return self._shared_tests(self.partitions.domains[client]) if own is None else own

    def _shared_tests(self, domain: str | None) -> Indices:
        return self._all_tests if domain is None else self.domain_tests[domain]

    def domain_examples(self, domain: str) -> Examples:
        """Return the test images of a domain, also of one that was left out."""
        return self.examples({**self.domain_tests, **self.unseen_tests}[domain])

    def each(self, part: Part, function: Callable[[Indices], Result]) -> list[Result]:
        """Return what a function returns for each client's indices, not ``None``, called once where they are shared."""
        if self.pooled and part is Part.TRAIN:
            return [function(self._all_train)] * len(self.partitions)
        lists = {Part.TRAIN: self.partitions.train, Part.VALIDATION: self.partitions.validation}
        own = lists.get(part, self.partitions.test).each(function)
        domains = self.partitions.domains
        shared = {each: function(self._shared_tests(each)) for each in set(domains)} if None in own else {}
        return [shared[domain] if mine is None else mine for domain, mine in zip(domains, own, strict=True)]

    def num_images(self, client: int, part: Part) -> int:
        return self._sizes[part][client]

    @cached_property
    def _sizes(self) -> Mapping[Part, list[int]]:
        return {part: self.each(part, len) for part in (Part.TRAIN, Part.VALIDATION, Part.TEST)}

    def label_counts(self) -> npt.NDArray[np.int64]:
        """Return the numbers of training images per client and class, (clients, classes)."""
        owner = np.repeat(np.arange(len(self.partitions)), [size or 0 for size in self.partitions.train.each(len)])
        labels = self.source.labels[self.partitions.train.joined()]
        cells = np.bincount(owner * self.num_classes + labels, minlength=len(self.partitions) * self.num_classes)
        return cells.reshape(len(self.partitions), self.num_classes)
