"""``engine=process``: clients on a pool of worker processes, one thread each; all cores, or several workers per GPU.

Any idle worker takes the next client: the clients' states live in this process and travel with the message through
shared memory, which balances clients of different size and lets a client start over, with the same result, when its
worker dies.
"""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.util import get_temp_dir
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.core.errors import FedsimError, UserError
from fedsim.core.files import why, writing
from fedsim.engines import forked
from fedsim.engines.client_call import CLIENT_RAISED
from fedsim.engines.grid import LocalGrid
from fedsim.engines.out_of_memory import OutOfMemoryKills
from fedsim.engines.shared_memory import Packed, pack, receive, send
from fedsim.engines.worker import READY, serve
from fedsim.messages.schema import ROUND, config_of

log = logging.getLogger(__name__)

AHEAD = 2
"""Messages per worker that may be answered before an earlier one is; bounds the replies that wait in memory."""
LONGEST_SOCKET = 104
"""Bytes of a Unix socket's name on macOS, including the terminating zero; Linux allows four more."""
SHORT_FOLDER = "/tmp"
ATTEMPTS = 3
"""How often a client is started before the death of its workers is attributed to the client."""


@dataclass(eq=False)
class _Task:
    index: int
    message: Message
    content: Packed
    attempts: int = 0

    @property
    def client(self) -> int:
        return self.message.metadata.dst_node_id


@dataclass(eq=False)
class _Worker:
    number: int
    device: torch.device
    process: ForkServerProcess
    connection: Connection
    task: _Task | None = None
    peak_memory_mb: float = 0.0


class ProcessGrid(LocalGrid):
    """A pool of workers, each holding the app that ``make_app`` (picklable) returns for its device.

    ``workers=None`` means one per core on the CPU and ``workers_per_gpu`` on each GPU, but not more than clients.
    """

    def __init__(
        self,
        make_app: Callable[[torch.device], ClientApp],
        num_nodes: int,
        devices: Sequence[torch.device],
        workers: int | None = None,
        workers_per_gpu: int = 1,
    ) -> None:
        count = worker_count(devices, workers, workers_per_gpu)
        super().__init__(num_nodes)
        self._context = multiprocessing.get_context("forkserver")
        # Imported once for all workers, torch with them, instead of once in each.
        self._context.set_forkserver_preload([forked.__name__, serve.__module__, make_app.__module__])
        self._make_app = pack(make_app)
        self._kills = OutOfMemoryKills()
        self._workers: list[_Worker] = []
        _keep_names_of_sockets_short()
        try:
            for number in range(min(count, num_nodes)):
                self._workers.append(self._start(number, devices[number % len(devices)]))
            for worker in self._workers:
                self._await_ready(worker)
        except BaseException:
            self.__exit__()
            raise

    @classmethod
    def check(cls, devices: Sequence[torch.device], options: Mapping[str, Any]) -> None:
        worker_count(devices, options["workers"], options["workers_per_gpu"])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        upcoming = _tasks(messages)
        task = next(upcoming, None)
        in_flight: set[_Task] = set()
        replies: dict[int, Message] = {}
        yielded = 0
        while task is not None or in_flight or replies:
            for worker in [worker for worker in self._workers if worker.task is None]:
                if task is None or task.index >= yielded + AHEAD * len(self._workers):
                    break
                if any(other.client == task.client for other in in_flight):
                    break  # the client's own earlier message comes first
                in_flight.add(task)
                self._dispatch(worker, task)
                task = next(upcoming, None)
            if yielded in replies:
                yielded += 1
                yield replies.pop(yielded - 1)
                continue
            busy = {worker.connection: worker for worker in self._workers if worker.task is not None}
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]  # wait returns what it was given
                assert worker.task is not None
                done, answer = worker.task, self._collect(worker, worker.task)
                if answer is not None and done in in_flight:  # else the caller of that message has stopped waiting
                    in_flight.remove(done)
                    replies[done.index], self.contexts[done.client].state = answer

    def peak_memory_mb(self) -> float:
        return sum(worker.peak_memory_mb for worker in self._workers)

    def worker_process_ids(self) -> list[int]:
        return [_process_id(worker) for worker in self._workers]

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers:
            worker.connection.close()  # an idle worker ends by itself
            if worker.task is not None:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()

    def _start(self, number: int, device: torch.device) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=serve, args=(theirs, device, os.getpid()), name=f"fedsim-worker-{number}", daemon=True
        )
        try:
            with _without_the_main_module():
                process.start()
        except OSError as error:  # no folder for its socket, no process or descriptor left
            raise FedsimError(f"worker {number} could not be started: {why(error)}") from error
        theirs.close()
        worker = _Worker(number, device, process, ours)
        send(ours, self._make_app, _process_id(worker))
        return worker

    def _await_ready(self, worker: _Worker) -> None:
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            cause, remedy = self._cause_of_death(worker)
            answer = f"it died at start ({cause}){remedy}"
        if answer != READY:
            raise FedsimError(f"worker {worker.number} could not be started: {answer}")

    def _dispatch(self, worker: _Worker, task: _Task) -> None:
        task.attempts += 1
        worker.task = task
        envelope = copy(task.message)
        envelope.content = RecordDict()  # the content is packed once for all clients that receive the same
        context: Context = self.contexts[task.client]
        try:
            send(worker.connection, task.content, _process_id(worker))
            send(worker.connection, pack((envelope, context)), _process_id(worker))
        except OSError:
            log.debug("worker %d was gone before its message was sent; noticed when its reply is due", worker.number)

    def _collect(self, worker: _Worker, task: _Task) -> tuple[Message, RecordDict] | None:
        """Return the reply and the client's new state; ``None`` if the worker has died and its task was restarted."""
        try:
            reply: Message = receive(worker.connection)
            state, worker.peak_memory_mb = receive(worker.connection, copy=True)
        except (EOFError, OSError):
            return self._replace(worker, task)
        worker.task = None
        return reply, state

    def _replace(self, worker: _Worker, task: _Task) -> tuple[Message, RecordDict] | None:
        worker.process.join(timeout=5)
        cause, remedy = self._cause_of_death(worker)
        where = f"client {task.client} in round {config_of(task.message).get(ROUND, '?')!s}"
        log.warning(
            "worker %d (process %s) died (%s) while it computed %s; it is replaced%s",
            *(worker.number, worker.process.pid, cause, where, remedy),
        )
        worker.connection.close()
        fresh = self._start(worker.number, worker.device)
        fresh.peak_memory_mb = worker.peak_memory_mb
        self._workers[self._workers.index(worker)] = fresh
        self._await_ready(fresh)
        if task.attempts < ATTEMPTS:
            self._dispatch(fresh, task)
            return None
        error = Error(CLIENT_RAISED, f"its worker died {ATTEMPTS} times ({cause}){remedy}")
        return Message(error, reply_to=task.message), self.contexts[task.client].state

    def _cause_of_death(self, worker: _Worker) -> tuple[str, str]:
        """Return why the worker has died and, if memory was used up, what helps."""
        code = worker.process.exitcode
        if code is None or code >= 0:
            return f"exit status {code}", ""
        if code != -signal.SIGKILL or not self._kills.happened():
            return f"signal {signal.Signals(-code).name}", ""
        fewer = f"engine.workers={len(self._workers) - 1} or " if len(self._workers) > 1 else ""
        return "memory was used up, and the kernel has killed it", f": choose {fewer}a smaller batch_size"


def worker_count(devices: Sequence[torch.device], workers: int | None, workers_per_gpu: int) -> int:
    """Return how many workers the settings ask for.

    Raises:
        UserError: If a number is below one, or the operating system has no fork server, which passes file descriptors.
    """
    for key, value in (("workers", workers), ("workers_per_gpu", workers_per_gpu)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"engine.{key}={value} is not possible: choose a whole number of at least 1.")
    if "forkserver" not in multiprocessing.get_all_start_methods():
        raise UserError("engine=process is not possible on this operating system: choose engine=inline.")
    if workers is not None:
        return workers
    if devices[0].type == "cuda":
        return workers_per_gpu * len(devices)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _without_the_main_module() -> Iterator[None]:
    """Prevent workers from running the user's script, which multiprocessing imports to find the definitions in it.

    Workers need none of them, and a script without ``if __name__ == "__main__"`` would start a simulation in each.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
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


def _tasks(messages: Iterable[Message]) -> Iterator[_Task]:
    """Yield a task for each message; successive messages with the same content share one packed copy of it."""
    content: RecordDict | None = None
    for index, message in enumerate(messages):
        if message.content is not content:
            content = message.content
            packed = pack(content)
        yield _Task(index, message, packed)


def _process_id(worker: _Worker) -> int:
    assert worker.process.pid is not None
    return worker.process.pid
