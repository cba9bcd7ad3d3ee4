"""The federation: labelled images of several domains, and which of them each client trains and is tested on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedsim.binding import instantiate

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """All images of a dataset, as its file under ``datasets/`` loads them."""

    images: npt.NDArray[np.uint8]
    """(N, channels, height, width), contiguous in that order"""
    labels: npt.NDArray[np.int64]
    """(N,), from 0 to ``num_classes - 1``"""
    domains: npt.NDArray[np.int64]
    """(N,), index into ``domain_names``"""
    is_test: npt.NDArray[np.bool_]
    """(N,), true for the images no client trains on"""
    domain_names: tuple[str, ...]
    num_classes: int

    def __post_init__(self) -> None:
        if not self.images.flags.c_contiguous:
            raise ValueError("the images of a source must be contiguous, so that workers can share them without a copy")

    def indices(self, domain: int, *, test: bool) -> Indices:
        return np.flatnonzero((self.domains == domain) & (self.is_test == test))


@dataclass(frozen=True)
class Partition:
    """One client's share: indices into the source."""

    client: int
    domain: str
    train: Indices
    test: Indices


@dataclass(frozen=True)
class Examples:
    """Images and labels as tensors on one device, normalized batch by batch."""

    images: torch.Tensor
    """uint8 (N, channels, height, width)"""
    labels: torch.Tensor
    """int64 (N,)"""

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The images as float32 in [-1, 1] (FedBN's ``Normalize(0.5, 0.5)``) and their labels."""
        return self.images[indices].float().div_(127.5).sub_(1.0), self.labels[indices]

    def to(self, device: torch.device) -> "Examples":
        return Examples(self.images.to(device), self.labels.to(device))


class Federation:
    """The source and its partitions; client ids count from zero."""

    def __init__(self, source: Source, partitions: Sequence[Partition]) -> None:
        self.source = source
        self.partitions = tuple(partitions)
        self.domain_tests = {
            name: source.indices(domain, test=True)
            for domain, name in enumerate(source.domain_names)
            if any(partition.domain == name for partition in self.partitions)
        }
        """The test images of each domain that a client belongs to; together the union that global accuracy is over."""

    @property
    def clients(self) -> range:
        return range(len(self.partitions))

    @property
    def num_classes(self) -> int:
        return self.source.num_classes

    def examples(self, indices: Indices) -> Examples:
        return Examples(
            torch.from_numpy(self.source.images[indices]),
            torch.from_numpy(self.source.labels[indices]),
        )

    def tested_on_domain(self, client: int) -> bool:
        """Whether the client's test set is its whole domain's, so that one evaluation serves both."""
        partition = self.partitions[client]
        return np.array_equal(partition.test, self.domain_tests[partition.domain])

    def label_counts(self) -> npt.NDArray[np.int64]:
        """Training images per client and class, (clients, classes)."""
        return np.stack([np.bincount(self.source.labels[p.train], minlength=self.num_classes) for p in self.partitions])


def build_federation(dataset: Mapping[str, Any], split: Mapping[str, Any], seed: int) -> Federation:
    """Loads ``dataset=`` and cuts it into clients as ``split=`` says; the seed decides the cut, not the images."""
    source = instantiate("dataset", dataset)
    return Federation(source, instantiate("split", split, source, seed=seed))
