"""One generator for each (seed, round, client, purpose).

No generator is shared between clients or carried from round to round, so the numbers of a run depend neither on the
order in which clients are computed nor on the process that computes them, and a resumed run needs no generator state.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

SERVER = -1
"""Stands in the place of a client id where the server draws."""


def derive_seed(seed: int, purpose: str, *, round: int = 0, client: int = SERVER) -> int:
    """A 63-bit seed that is the same on every machine and Python version."""
    text = f"{seed}/{round}/{client}/{purpose}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def numpy_generator(seed: int, purpose: str, *, round: int = 0, client: int = SERVER) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, purpose, round=round, client=client))


def torch_generator(seed: int, purpose: str, *, round: int = 0, client: int = SERVER) -> torch.Generator:
    """A generator on the CPU, so that the same batches are drawn whatever device trains on them."""
    generator = torch.Generator()
    generator.manual_seed(derive_seed(seed, purpose, round=round, client=client))
    return generator


@contextmanager
def global_seed(seed: int, purpose: str, *, round: int = 0, client: int = SERVER) -> Iterator[None]:
    """Seeds torch's global generators inside the block (weight initialization, dropout) and restores them after it."""
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, purpose, round=round, client=client))
        yield


def draw_cohort(clients: list[int], fraction: float, seed: int, round: int) -> list[int]:
    """The clients of one round: ``max(1, round(fraction * K))`` of them without replacement, in ascending order."""
    size = max(1, int(fraction * len(clients) + 0.5))
    if size >= len(clients):
        return sorted(clients)
    chosen = numpy_generator(seed, "cohort", round=round).choice(np.sort(clients), size, replace=False)
    return sorted(int(client) for client in chosen)
