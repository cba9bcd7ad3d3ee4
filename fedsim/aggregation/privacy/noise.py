"""Flower draws its noise from numpy's global generator."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from fedsim.core.seeding import derive_seed


@contextmanager
def global_numpy_seed(seed: int, purpose: str, *, round: int) -> Iterator[None]:
    """Seeds numpy's global generator inside the block and restores it after it.

    Whoever knows the seed knows the noise: that serves a simulation, and would protect nobody.
    """
    before = np.random.get_state()
    derived = derive_seed(seed, purpose, round=round)
    np.random.seed([derived & 0xFFFFFFFF, derived >> 32])
    try:
        yield
    finally:
        np.random.set_state(before)
