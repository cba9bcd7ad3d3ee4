"""``engine=ray``: clients on the workers of a Ray cluster, or of a Ray that is started on this machine.

A worker is an actor with one core, and with a share of a GPU if the run computes on GPUs. The images are put into Ray's
object store once, and so is the model of every round: each node fetches one copy. A worker that dies, or whose node is
lost, is replaced where the cluster has room; its client starts over on another one.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.core.checkout import ROOT
from fedsim.core.errors import FedsimError, UserError
from fedsim.core.files import why
from fedsim.engines.pace import Pace
from fedsim.engines.pool import ATTEMPTS, PoolGrid
from fedsim.engines.ray_worker import RayWorker, Shipped
from fedsim.engines.tasks import Batch, Died, PoolWorker

log = logging.getLogger(__name__)

PATIENCE = 600.0
"""Seconds for which a run waits for a worker to start, which imports torch on each node, before it gives up."""
CONNECTING = 10.0
"""Seconds for which a connection to a cluster is tried."""
LATE = 10.0
"""Seconds for which the first workers wait for the next one; those that come later join while clients are computed."""
NOT_CODE = ["/.git", "/data", "/docs", "/multirun", "/outputs", "/results", "/tests"]
"""What of the checkout the nodes of a cluster do not need."""


@dataclass(eq=False, kw_only=True)
class _ActorWorker(PoolWorker):
    actor: Any
    starts: int
    """How many actors have been started in its place until one joined"""
    place: str = "a node that has not answered"

    @property
    def answer(self) -> Any:
        """The reference to the answer that comes next; ``None`` if there is nothing to answer."""
        return self.batches[0].handle if self.batches else None


class RayGrid(PoolGrid[_ActorWorker]):
    """A pool of actors, each holding the app that ``make_app`` (picklable) returns for its device.

    Args:
        make_app: Returns the app for a device.
        num_nodes: The number of clients.
        devices: Those of this machine; if the first is a GPU, so are the workers'.
        address: ``HOST:PORT`` of the cluster's head, ``ray://HOST:PORT`` of its client server, ``auto`` for the cluster
            that this machine belongs to, ``None`` to start Ray on this machine for this run.
        workers: How many; ``None`` for one for each core, or each share of a GPU, of the cluster. Never more than
            clients.
        gpus_per_worker: Share of a GPU, if the run computes on GPUs.

    Raises:
        UserError: If the cluster cannot be reached, or has no room for a worker.
        FedsimError: If the app cannot be built.
    """

    def __init__(
        self,
        make_app: Callable[[torch.device], ClientApp],
        num_nodes: int,
        devices: Sequence[torch.device],
        address: str | None = None,
        workers: int | None = None,
        gpus_per_worker: float = 1.0,
    ) -> None:
        self.check(devices, {"address": address, "workers": workers, "gpus_per_worker": gpus_per_worker})
        super().__init__(num_nodes, Pace())
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as Ray advises: it warns otherwise
        import ray

        self._ray = ray
        self._device = devices[0].type
        self._gpus = gpus_per_worker if self._device == "cuda" else 0.0
        self._joining: dict[Any, _ActorWorker] = {}
        self._ours = not ray.is_initialized()
        if self._ours:
            self._connect(address, workers)
        try:
            self._make_app = ray.put(Shipped.of(make_app))
            for number in range(min(workers or self._room(), num_nodes)):
                self._start(number)
            while not self.workers:
                self._admit(self._soon(PATIENCE))
            while self._joining and (joined := self._waited(LATE)):
                self._admit(joined)
        except BaseException:
            self.__exit__()
            raise

    @classmethod
    def check(cls, devices: Sequence[torch.device], options: Mapping[str, Any]) -> None:
        if find_spec("ray") is None:
            raise UserError("engine=ray needs Ray: install it with pip install -e '.[ray]', or choose engine=process.")
        workers, gpus = options["workers"], options["gpus_per_worker"]
        if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
            raise UserError(f"engine.workers={workers} is not possible: choose a whole number of at least 1.")
        if isinstance(gpus, bool) or not isinstance(gpus, int | float) or not 0 < gpus <= 1:
            raise UserError(f"engine.gpus_per_worker={gpus} is not possible: choose a number above 0 and at most 1.")

    @property
    def adds_up(self) -> bool:
        return self._device == "cpu"  # on a GPU it has not been tried

    def packed(self, content: RecordDict) -> Any:
        return self._ray.put(Shipped.of(content))

    def dispatch(self, worker: _ActorWorker, batch: Batch, contexts: Sequence[Context]) -> None:
        calls = [task.call(context) for task, context in zip(batch.tasks, contexts, strict=True)]
        batch.handle = worker.actor.answer.remote(batch.tasks[0].content, Shipped.of(calls))

    def answered(self) -> Iterable[_ActorWorker]:
        if not self.workers and not self._joining:
            raise FedsimError("no worker is left, and the cluster has no room for another one.")
        done = self._soon(None if self.workers else PATIENCE)
        self._admit(done)
        return [worker for worker in self.workers if worker.answer in done]

    def collect(self, worker: _ActorWorker, batch: Batch) -> Sequence[tuple[Message, RecordDict]] | Died:
        try:
            answers, worker.memory = self._ray.get(batch.handle)
        except self._ray.exceptions.RayTaskError:
            raise  # a fault of ours: what clients raise is in the reply
        except self._ray.exceptions.RayError as error:
            return self._replace(worker, batch, error)
        copied: list[tuple[Message, RecordDict]] = answers.value(copy=True)
        return copied

    def __exit__(self, *exc: object) -> None:
        for worker in (*self.workers, *self._joining.values()):
            self._ray.kill(worker.actor)
        self.workers.clear()
        self._joining.clear()
        if self._ours:
            self._ray.shutdown()

    def _connect(self, address: str | None, workers: int | None) -> None:
        """Connect to the cluster, or start Ray here; the nodes of a cluster receive the code of this checkout."""
        where: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False}
        if address is not None:
            refuse_where_nobody_answers(address)
            where = {"address": address, "runtime_env": {"working_dir": str(ROOT), "excludes": NOT_CODE}}
        try:
            self._ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            told = str(error).split("\n", maxsplit=1)[0].strip().rstrip(".")
            raise UserError(
                f"engine.address={address} is not possible ({told}): choose the address of a running Ray, or leave it "
                "out."
            ) from error

    def _room(self) -> int:
        """Return for how many workers the cluster has cores, or GPUs.

        Raises:
            UserError: If there is no room for one.
        """
        there: dict[str, float] = self._ray.cluster_resources()  # type: ignore[no-untyped-call]
        cores = int(there.get("CPU", 0))
        room = min(cores, int(there.get("GPU", 0) / self._gpus + 1e-9)) if self._gpus else cores
        if room < 1:
            raise UserError(
                f"engine=ray has no room for a worker: the cluster has {cores} cores and {there.get('GPU', 0):g} GPUs, "
                f"and a worker needs one core and {self._gpus:g} GPUs."
            )
        return room

    def _start(self, number: int, starts: int = 1) -> None:
        actor = self._ray.remote(RayWorker).options(num_cpus=1, num_gpus=self._gpus)
        worker = _ActorWorker(number=number, actor=actor.remote(), starts=starts)
        self._joining[worker.actor.start.remote(self._make_app, self._device)] = worker

    def _soon(self, timeout: float | None) -> set[Any]:
        """Wait until a worker has answered, died or joined, and return the references to what is there.

        Raises:
            FedsimError: If nothing has come in ``timeout`` seconds.
        """
        done = self._waited(timeout)
        if not done:
            raise FedsimError(
                f"{len(self._joining)} workers have not started in {timeout:g} seconds: the cluster is busy, or has "
                "lost its nodes."
            )
        return done

    def _waited(self, timeout: float | None) -> set[Any]:
        """Wait as ``_soon`` does; return an empty set after ``timeout`` seconds."""
        awaited = [*self._joining, *(worker.answer for worker in self.workers if worker.answer is not None)]
        done, _ = self._ray.wait(awaited, timeout=timeout)
        return set(done)

    def _admit(self, done: set[Any]) -> None:
        """Let the workers whose app is built take clients; start those again that died before, as with their node.

        Raises:
            FedsimError: If an app could not be built, or a worker died as often as a client may.
        """
        for reference in done & self._joining.keys():
            worker = self._joining.pop(reference)
            try:
                worker.place = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                told = error.cause if isinstance(error.cause, FedsimError) else error
                raise FedsimError(f"worker {worker.number} could not be started: {told}") from error
            except self._ray.exceptions.RayError as error:
                if worker.starts == ATTEMPTS:
                    raise FedsimError(
                        f"worker {worker.number} died {ATTEMPTS} times while it started: {error}"
                    ) from error
                self._start(worker.number, worker.starts + 1)
                continue
            self.workers.append(worker)

    def _replace(self, worker: _ActorWorker, batch: Batch, error: Exception) -> Died:
        cause = type(error).__name__
        log.warning(
            "worker %d (%s) died (%s) while it computed %s; it is replaced",
            *(worker.number, worker.place, cause, batch.in_words()),
        )
        self.workers.remove(worker)
        self._start(worker.number)
        return Died(cause)


def refuse_where_nobody_answers(address: str) -> None:
    """Refuse an address at which no connection is accepted, which Ray itself would try for minutes.

    Raises:
        UserError: If nobody answers.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():  # auto, or a form of Ray's own
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECTING).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"engine.address={address} is not possible ({why(error)}): choose the address of a running Ray, or leave "
            "it out."
        ) from error
