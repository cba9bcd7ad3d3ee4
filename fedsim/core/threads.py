"""How many threads torch computes with: one, where numbers must not depend on the machine or the engine."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread for a while, so that sums in the server's process do not depend on the engine."""
    before = fix_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fix_threads() -> int:
    """Compute with one thread, since the order in which threads add up would show in the last bits; return what was."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    return before
