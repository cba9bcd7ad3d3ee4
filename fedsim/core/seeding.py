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
"""Takes the place of a client id where the server draws."""


def derive_seed(seed: int, purpose: str, *, round: int = 0, client: int = SERVER) -> int:
    """Return a 63-bit seed that is the same on every machine and Python version."""
    text = f"{seed}/{round}/{client}/{purpose}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def numpy_generator(seed: int, purpose: str, *, round: int = 0, client: int = SERVER) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, purpose, round=round, client=client))


def torch_generator(seed: int, purpose: str, *, round: int = 0, client: int = SERVER) -> torch.Generator:
    """Return a generator on the CPU, so that the same batches are drawn whatever device trains on them."""
    generator = torch.Generator()
    generator.manual_seed(derive_seed(seed, purpose, round=round, client=client))
    return generator


@contextmanager
def global_seed(
    seed: int, purpose: str, *, round: int = 0, client: int = SERVER, device: torch.device | None = None
) -> Iterator[None]:
    """Seed torch's global generators inside the block (weight initialization, dropout) and restore them after it.

    The generator of a GPU is seeded only if that GPU is ``device``, since touching it would initialize CUDA.
    """
    gpus = [device.index or 0] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        derived = derive_seed(seed, purpose, round=round, client=client)
        if gpus:
            torch.manual_seed(derived)
        else:  # not torch.manual_seed: it also queues a seeding of CUDA's generators, which takes milliseconds
            torch.default_generator.manual_seed(derived)
        yield


def cohort_size(clients: int, fraction: float) -> int:
    """Return how many clients are in a cohort: ``fraction`` of all, halves rounded up, and at least one."""
    # Not Python's round, which rounds halves to even; and 0.29 * 50 is slightly below 14.5 in binary.
    return min(clients, max(1, int(round(fraction * clients, 9) + 0.5)))


def draw_cohort(clients: list[int], fraction: float, seed: int, round: int) -> list[int]:
    """Return the ``cohort_size`` clients of one round, in ascending order."""
    size = cohort_size(len(clients), fraction)
    if size == len(clients):
        return sorted(clients)
    # Indices are drawn instead of ids: numpy would convert 64-bit node ids to floats.
    places = numpy_generator(seed, "cohort", round=round).choice(len(clients), size, replace=False)
    ordered = sorted(clients)
    return sorted(ordered[place] for place in places)
