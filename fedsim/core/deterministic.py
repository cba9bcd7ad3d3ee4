"""``deterministic=true``: algorithms on a GPU that add in a fixed order, so that equal settings give equal bits."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""The variable without which torch has no such products of matrices; ``:4096:8`` takes 24 MB of the GPU"""

GPU = "cuda"


@contextmanager
def fixed_algorithms(device: torch.device) -> Iterator[None]:
    """Compute on a GPU with such algorithms inside the block; a CPU has no others where one thread computes.

    torch raises a ``RuntimeError`` that names an operation which has none.
    """
    if device.type != GPU:
        yield
        return
    os.environ.setdefault(WORKSPACE, ":4096:8")
    strict, tries = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict)
        torch.backends.cudnn.benchmark = tries
