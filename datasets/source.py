"""All images of a data set in one array, with the label, domain and part of each."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from datasets.transforms import PLUS_MINUS_ONE, Transform
from fedsim.core.names import all_readable

Indices = npt.NDArray[np.int64]


class Part(IntEnum):
    """The use of an image, which the data set determines; only ``split.validation`` holds out training images."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    UNUSED = 3


@dataclass(frozen=True)
class Source:
    """The result of a function under ``datasets/`` that ``dataset=`` names."""

    images: npt.NDArray[np.uint8]
    """(N, channels, height, width), contiguous in this order; if it is a memory map, workers map the same file"""
    labels: Indices
    """(N,), from 0 to ``num_classes - 1``"""
    domains: Indices
    """(N,), index into ``domain_names``"""
    parts: npt.NDArray[np.uint8]
    """(N,), a ``Part`` each"""
    domain_names: tuple[str, ...]
    """The names in a form that can be shown (``fedsim/core/names.py``), whatever the names of the folders are"""
    class_names: tuple[str, ...]
    transform: Transform = PLUS_MINUS_ONE
    writers: Indices | None = None
    """(N,), the number of the image's author, for ``split=naturalid``; ``None`` where it is not known"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "domain_names", all_readable("domains", self.domain_names))
        object.__setattr__(self, "class_names", all_readable("classes", self.class_names))
        if not self.images.flags.c_contiguous:
            raise ValueError("the images of a source must be contiguous, so that workers can share them without a copy")

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def indices(self, domain: int, part: Part) -> Indices:
        return self._by_domain_and_part[domain, part]

    @cached_property
    def _by_domain_and_part(self) -> dict[tuple[int, Part], Indices]:
        return {
            (domain, part): np.flatnonzero((self.domains == domain) & (self.parts == part))
            for domain in range(len(self.domain_names))
            for part in Part
        }

    def training_sizes(self) -> list[int]:
        """Return the number of training images of each domain."""
        return [len(self.indices(domain, Part.TRAIN)) for domain in range(len(self.domain_names))]

    def limited(self, train: Sequence[int], validation: Sequence[int] | None = None) -> "Source":
        """Return a source that trains on the first ``train`` training images of each domain.

        The last ``validation`` ones are for validation, but none of the first. Both arguments have a number for each
        domain; a domain that has fewer images uses all of them. The rest is unused.
        """
        parts = self.parts.copy()
        for domain in range(len(self.domain_names)):
            places = self.indices(domain, Part.TRAIN)
            parts[places[train[domain] :]] = Part.UNUSED
            if validation is not None:
                parts[places[max(train[domain], len(places) - validation[domain]) :]] = Part.VALIDATION
        return replace(self, parts=parts)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickling: the fields, without what is cached."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
