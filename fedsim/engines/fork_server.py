"""The process from which the workers of ``engine=process`` are forked.

It imports torch, Flower and the client's code once for all of them. Started as early as possible, it does so while the
run's own process imports the same, loads the images and builds the model. Nothing here needs torch.
"""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, get_all_start_methods, get_context, get_start_method, set_start_method
from multiprocessing.context import ForkServerContext
from multiprocessing.util import get_temp_dir
from pathlib import Path
from types import ModuleType
from typing import Any

from fedsim.core.errors import FedsimError
from fedsim.core.files import writing

NAME = "process"
"""The ``name`` of the engine."""
IMPORTED = "fedsim.engines.forked"
"""What it imports for the workers to come."""
LONGEST_SOCKET = 104
"""Bytes of a Unix socket's name on macOS, including the terminating zero; Linux allows four more."""
SHORT_FOLDER = "/tmp"


def start_early(engines: Iterable[Mapping[str, Any]]) -> None:
    """Start the fork server if one of these engines, by their options, will fork workers.

    If that fails, nothing is said: the engine will try again, and say it.
    """
    if is_possible() and any(engine.get("name") == NAME for engine in engines):
        with suppress(OSError, FedsimError):
            start()


def is_possible() -> bool:
    """Return whether this operating system has fork servers, which pass file descriptors."""
    return "forkserver" in get_all_start_methods()


def start() -> ForkServerContext:
    """Start the fork server unless it runs, without waiting for it, and return the context that forks workers from it.

    Raises:
        FileError: If no temporary folder can be used.
        OSError: If no process or socket is left.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([IMPORTED])
    _keep_names_of_sockets_short()
    with _without_interrupts():
        forkserver.ensure_running()
    return context


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let a process that is started inside the block ignore Ctrl-C, which reaches the whole process group."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if usual is None else usual)  # None: of a program around Python


@contextmanager
def as_a_plain_program() -> Iterator[None]:
    """Hide from workers that are started inside the block what they would take over of this program.

    They would run its script, in which multiprocessing looks for definitions; they need none of them, and a script
    without ``if __name__ == "__main__"`` would start a simulation in each. And they would want its default way of
    starting processes, which may be one of a library's own, as under ``hydra/launcher=joblib``.
    """
    main, method = sys.modules["__main__"], get_start_method(allow_none=True)
    sys.modules["__main__"] = ModuleType("__main__")
    set_start_method("forkserver", force=True)
    try:
        yield
    finally:
        set_start_method(method, force=True)
        sys.modules["__main__"] = main


def _keep_names_of_sockets_short() -> None:
    """Make multiprocessing put its sockets into a folder with a short name, if ``TMPDIR`` is too long for them."""
    with writing("a temporary folder"):
        name = Path(tempfile.gettempdir(), "pymp-12345678", "listener-12345678")
    if os.name != "posix" or len(os.fsencode(name)) < LONGEST_SOCKET:
        return
    usual, tempfile.tempdir = tempfile.tempdir, SHORT_FOLDER
    try:
        get_temp_dir()  # multiprocessing reuses the first one that it has made
    finally:
        tempfile.tempdir = usual
