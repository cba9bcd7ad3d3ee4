"""``engine=process``: clients on a pool of worker processes, one thread each; all cores, or several workers per GPU."""

import logging
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.reduction import ACKNOWLEDGE
from typing import Any

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.core.errors import FedsimError, UserError
from fedsim.core.files import why
from fedsim.engines import fork_server
from fedsim.engines.out_of_memory import OutOfMemoryKills
from fedsim.engines.pace import AT_WORKER, Pace
from fedsim.engines.pool import PoolGrid
from fedsim.engines.shared_memory import Channel, Packed
from fedsim.engines.tasks import Batch, Died, PoolWorker
from fedsim.engines.worker import READY, serve

log = logging.getLogger(__name__)


@dataclass(eq=False, kw_only=True)
class ProcessWorker(PoolWorker):
    """A worker process, and our end of the pipe to it."""

    device: torch.device
    process: ForkServerProcess
    channel: Channel
    content: Packed | None = field(default=None, init=False)
    """The content of messages that it was sent last, and still has"""
    ready: bool = field(default=False, init=False)
    """Whether it has said so"""

    @property
    def process_id(self) -> int:
        assert self.process.pid is not None
        return self.process.pid


class ProcessGrid(PoolGrid[ProcessWorker]):
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
        # Where the receiver of a descriptor acknowledges it, one that computes cannot be sent it.
        super().__init__(num_nodes, Pace(early=not ACKNOWLEDGE))
        self._make_app = Packed(make_app)
        self._kills = OutOfMemoryKills()
        try:
            self._context = fork_server.start()
        except OSError as error:  # no folder for its socket, no process or descriptor left
            raise FedsimError(f"workers cannot be started: {why(error)}") from error
        try:
            for number in range(min(count, num_nodes)):
                self.workers.append(self._start(number, devices[number % len(devices)]))
            for worker in self.workers:
                self._await_ready(worker)
        except BaseException:
            self.__exit__()
            raise

    @classmethod
    def check(cls, devices: Sequence[torch.device], options: Mapping[str, Any]) -> None:
        worker_count(devices, options["workers"], options["workers_per_gpu"])

    @property
    def adds_up(self) -> bool:
        return all(worker.device.type == "cpu" for worker in self.workers)  # on a GPU it has not been tried

    def packed(self, content: RecordDict) -> Packed:
        return Packed(content)

    def dispatch(self, worker: ProcessWorker, batch: Batch, contexts: Sequence[Context]) -> None:
        content = batch.tasks[0].content
        calls = [task.call(context) for task, context in zip(batch.tasks, contexts, strict=True)]
        used = {each.handle for each in worker.batches}
        batch.handle = next(number for number in range(AT_WORKER) if number not in used)
        try:
            if worker.content is not content:
                worker.content = content
                worker.channel.send_shared(content)
            worker.channel.send(calls, batch.handle)
        except ConnectionError:
            log.debug("worker %d was gone before its message was sent; noticed when its reply is due", worker.number)
        except OSError as error:  # no file, no memory for one
            raise FedsimError(f"{batch.in_words()} cannot be sent to a worker: {why(error)}") from error

    def answered(self) -> Iterable[ProcessWorker]:
        busy = {worker.channel.connection: worker for worker in self.workers if worker.batches}
        if not busy:
            raise RuntimeError("no worker has anything to answer")
        return [busy[connection] for connection in wait(list(busy))]  # type: ignore[index]  # what it was given

    def collect(self, worker: ProcessWorker, batch: Batch) -> Sequence[tuple[Message, RecordDict]] | Died:
        try:
            answers: Sequence[tuple[Message, RecordDict]]
            (answers, worker.memory), number = worker.channel.receive()
        except (EOFError, OSError):
            return self._replace(worker, batch)
        if number != batch.handle:
            raise RuntimeError(f"worker {worker.number} answered what it was sent after {batch.in_words()}")
        return answers

    def worker_process_ids(self) -> list[int]:
        return [worker.process_id for worker in self.workers]

    def __exit__(self, *exc: object) -> None:
        for worker in self.workers:
            worker.channel.close()  # an idle worker ends by itself
            if worker.batches or not worker.ready:
                worker.process.terminate()
        for worker in self.workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self.workers.clear()

    def _start(self, number: int, device: torch.device) -> ProcessWorker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=serve, args=(theirs, device, os.getpid()), name=f"fedsim-worker-{number}", daemon=True
        )
        try:
            with fork_server.as_a_plain_program():
                process.start()
        except OSError as error:
            raise FedsimError(f"worker {number} could not be started: {why(error)}") from error
        theirs.close()
        assert process.pid is not None
        worker = ProcessWorker(number=number, device=device, process=process, channel=Channel(ours, process.pid))
        worker.channel.send_shared(self._make_app)
        return worker

    def _await_ready(self, worker: ProcessWorker) -> None:
        try:
            answer = worker.channel.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            cause, remedy = self._cause_of_death(worker)
            answer = f"it died at start ({cause}){remedy}"
        if answer != READY:
            raise FedsimError(f"worker {worker.number} could not be started: {answer}")
        worker.ready = True

    def _replace(self, worker: ProcessWorker, batch: Batch) -> Died:
        worker.process.join(timeout=5)
        if worker.process.is_alive():  # its end of the pipe is closed, and it cannot be told anything any more
            worker.process.kill()
            worker.process.join()
        cause, remedy = self._cause_of_death(worker)
        log.warning(
            "worker %d (process %s) died (%s) while it computed %s; it is replaced%s",
            *(worker.number, worker.process.pid, cause, batch.in_words(), remedy),
        )
        worker.channel.close()
        fresh = self._start(worker.number, worker.device)
        fresh.memory = worker.memory
        self.workers[self.workers.index(worker)] = fresh
        self._await_ready(fresh)
        return Died(cause, remedy)

    def _cause_of_death(self, worker: ProcessWorker) -> tuple[str, str]:
        """Return why the worker has died and, if memory was used up, what helps."""
        code = worker.process.exitcode
        if code is None or code >= 0:
            return f"exit status {code}", ""
        if code != -signal.SIGKILL or not self._kills.happened():
            return f"signal {name_of_signal(-code)}", ""
        fewer = f"engine.workers={len(self.workers) - 1} or " if len(self.workers) > 1 else ""
        return "memory was used up, and the kernel has killed it", f": choose {fewer}a smaller batch_size"


def name_of_signal(number: int) -> str:
    """Return the name of a signal; of most real-time signals, which have none, the number."""
    return signal.Signals(number).name if number in {*signal.Signals} else str(number)


def worker_count(devices: Sequence[torch.device], workers: int | None, workers_per_gpu: int) -> int:
    """Return how many workers the settings ask for.

    Raises:
        UserError: If a number is below one, or the operating system has no fork server, which passes file descriptors.
    """
    for key, value in (("workers", workers), ("workers_per_gpu", workers_per_gpu)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"engine.{key}={value} is not possible: choose a whole number of at least 1.")
    if not fork_server.is_possible():
        raise UserError("engine=process is not possible on this operating system: choose engine=inline.")
    if workers is not None:
        return workers
    if devices[0].type == "cuda":
        return workers_per_gpu * len(devices)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
