"""When Python's garbage collector works: not while a run is imported and prepared, and on none of that in its rounds.

It looks through all objects again whenever their number has grown by a quarter. Imports and preparation make several
hundred thousand of them, and hardly any garbage.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


class _Past:
    """Whether a run of this process is over, whose garbage has not been collected."""

    run_is_over = False


@contextmanager
def paused() -> Iterator[None]:
    """Let the collector rest inside the block, and afterwards pass over what is there, until ``run_is_over``."""
    if not gc.isenabled():  # inside another such block, or switched off by the program around
        yield
        return
    if _Past.run_is_over:  # in a sweep or a notebook
        _Past.run_is_over = False
        gc.collect()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def run_is_over() -> None:
    """Let the collector look at everything again."""
    gc.unfreeze()
    _Past.run_is_over = True
