"""Sources whose images can be told apart by their number, and splits of them in one line."""

from collections.abc import Callable

import numpy as np
import pytest

from datasets.federation import Federation
from datasets.source import Part, Source
from datasets.splits.build import build_split
from fedsim.config.composition import compose


@pytest.fixture
def make_source() -> Callable[..., Source]:
    """``per_class`` training and ``tests`` test images of each of four classes in each domain, in random order."""

    def make(per_class: int = 25, tests: int = 10, domains: int = 2, writers: int = 5) -> Source:
        one = [(c, part) for c in range(4) for part in [Part.TRAIN] * per_class + [Part.TEST] * tests]
        rng = np.random.default_rng(0)
        labels, parts = np.array(one * domains).T
        count = len(labels)
        order = rng.permutation(count)
        return Source(
            images=np.full((count, 1, 2, 2), 128, np.uint8),
            labels=labels[order].astype(np.int64),
            domains=np.repeat(np.arange(domains), len(one))[order],
            parts=parts[order].astype(np.uint8),
            domain_names=tuple(f"domain{number}" for number in range(domains)),
            class_names=("a", "b", "c", "d"),
            writers=rng.integers(writers, size=count),
        )

    return make


@pytest.fixture
def split() -> Callable[..., Federation]:
    """``split(source, "domain", "longtail", alpha=...)``: the options must be those of the steps."""

    def make(source: Source, *steps: str, seed: int = 0, **options: object) -> Federation:
        group = compose([f"split=[{','.join(steps)}]"])["split"]
        return build_split(source, {**group, **options}, seed)

    return make
