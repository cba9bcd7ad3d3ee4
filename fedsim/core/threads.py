"""The number of threads of torch: one, where numbers must not depend on the machine or the engine."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fixed_unless_it_fails() -> Iterator[int]:
    """Set torch to one thread, yield the previous number, and set it again if the block raises."""
    before = fix_threads()
    try:
        yield before
    except BaseException:
        torch.set_num_threads(before)
        raise


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread inside the block, so that sums in the server's process do not depend on the engine."""
    before = fix_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fix_threads() -> int:
    """Set torch to one thread and return the previous number of threads.

    With more threads, the order of their sums would change the last bits of the results.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    return before
