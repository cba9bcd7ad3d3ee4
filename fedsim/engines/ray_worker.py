"""A worker on a Ray cluster: builds its ``ClientApp`` once, then answers messages."""

import os
import socket
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import RecordDict
from flwr.clientapp import ClientApp

from fedsim.core.freed_memory import keep_freed_memory
from fedsim.core.memory import Memory
from fedsim.core.threads import fix_threads
from fedsim.engines import forked  # noqa: F401  # before anything is unpickled: puts the checkout's folders on the path
from fedsim.engines.client_call import call_clients
from fedsim.engines.pickling import dump, load


@dataclass(frozen=True)
class Shipped:
    """A pickled object as Ray stores it: once on each node, and its workers read the buffers without a copy."""

    pickled: bytes
    buffers: tuple[npt.NDArray[np.uint8], ...]

    @classmethod
    def of(cls, value: object) -> Self:
        pickled, buffers = dump(value, files_by_name=False)
        return cls(pickled, tuple(np.frombuffer(buffer, np.uint8) for buffer in buffers))

    def value(self, *, copy: bool = False) -> Any:
        return load(self.pickled, self.buffers, copy=copy)


class RayWorker:
    """An actor with one thread, and a GPU, or a share of one, if Ray has given it one."""

    _app: ClientApp

    def start(self, make_app: Shipped, device: str) -> str:
        """Build the app, and return where the worker runs."""
        fix_threads()
        keep_freed_memory()
        self._app = make_app.value()(torch.device(device))
        return f"process {os.getpid()} on {socket.gethostname()}"

    def answer(self, content: Shipped, calls: Shipped) -> tuple[Shipped, Memory]:
        """Return replies and new states of clients that received the same content, and the worker's memory."""
        received: RecordDict = content.value()
        return Shipped.of(call_clients(self._app, received, calls.value())), Memory.now()
