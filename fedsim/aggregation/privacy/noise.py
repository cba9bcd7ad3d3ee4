"""Seeding of numpy's global generator, from which Flower draws its noise."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from fedsim.core.seeding import derive_seed


@contextmanager
def global_numpy_seed(seed: int, purpose: str, *, round: int) -> Iterator[None]:
    """Seed numpy's global generator inside the block and restore it afterwards.

    Anyone who knows the seed can compute the noise: this is suitable for a simulation, and protects no real data.
    """
    before = np.random.get_state()
    derived = derive_seed(seed, purpose, round=round)
    np.random.seed([derived & 0xFFFFFFFF, derived >> 32])
    try:
        yield
    finally:
        np.random.set_state(before)
