"""BlazeFL: its FedAvg server, and its pools of threads (``blazefl_threads``) or of processes (``blazefl_processes``).

The pools are its own, with what a client does filled in, which is what the package leaves to its users. Each worker has
one model for all of its clients, as with the other contestants; its own trainers of FedAvg build one for each client.
"""

import queue
import threading
from typing import Any

import torch
from blazefl.contrib.fedavg import (
    FedAvgBaseServerHandler,
    FedAvgDownlinkPackage,
    FedAvgProcessPoolUplinkPackage,
    FedAvgUplinkPackage,
)
from blazefl.core import (
    ProcessPoolClientTrainer,
    SHMHandle,
    ThreadPoolClientTrainer,
    deserialize_model,
    serialize_model,
)
from torch import multiprocessing, nn

from benchmarks.contestants.cases import BATCH_SIZE, Task
from benchmarks.contestants.networks import network_of
from benchmarks.contestants.record import Record
from benchmarks.contestants.training import Clients, train

LOSS = "loss"


class Networks:
    """What BlazeFL asks for a model."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def select_model(self, model_name: str) -> nn.Module:
        return network_of(self.task)


class Threads(ThreadPoolClientTrainer[FedAvgUplinkPackage, FedAvgDownlinkPackage]):
    def __init__(self, task: Task, clients: Clients) -> None:
        self.num_parallels, self.device, self.cache = task.workers, "cpu", []
        self.stop_event = threading.Event()
        self.clients, self.round = clients, 0
        self.idle: queue.SimpleQueue[nn.Module] = queue.SimpleQueue()
        for _ in range(task.workers):
            self.idle.put(network_of(task))

    def worker(
        self, cid: int, device: str, payload: FedAvgDownlinkPackage, stop_event: threading.Event
    ) -> FedAvgUplinkPackage:
        model = self.idle.get()
        trained = trained_client(model, self.clients, cid, self.round, payload)
        self.idle.put(model)
        return trained


class Inherited:
    """What the processes of a pool have from this one, whose copies they are."""

    clients: Clients
    model: nn.Module


class Processes(ProcessPoolClientTrainer[FedAvgProcessPoolUplinkPackage, FedAvgDownlinkPackage, tuple[int, int]]):
    def __init__(self, task: Task, clients: Clients) -> None:
        self.num_parallels, self.device, self.cache = task.workers, "cpu", []
        self.stop_event = multiprocessing.Manager().Event()
        self.round = 0
        Inherited.clients, Inherited.model = clients, network_of(task)
        self.shape = serialize_model(Inherited.model)

    def get_client_config(self, cid: int) -> tuple[int, int]:
        return cid, self.round

    def prepare_uplink_package_buffer(self) -> FedAvgProcessPoolUplinkPackage:
        return FedAvgProcessPoolUplinkPackage(-1, torch.empty_like(self.shape), 0, {LOSS: 0.0})

    @staticmethod
    def worker(
        config: tuple[int, int],
        payload: FedAvgDownlinkPackage,
        device: str,
        stop_event: threading.Event,
        *,
        shm_buffer: FedAvgProcessPoolUplinkPackage | None = None,
    ) -> FedAvgProcessPoolUplinkPackage:
        assert shm_buffer is not None
        assert isinstance(shm_buffer.model_parameters, torch.Tensor)
        torch.set_num_threads(1)
        client, server_round = config
        trained = trained_client(Inherited.model, Inherited.clients, client, server_round, payload)
        shm_buffer.model_parameters.copy_(trained.model_parameters)
        return FedAvgProcessPoolUplinkPackage(client, SHMHandle(), trained.data_size, trained.metadata)


def trained_client(
    model: nn.Module, clients: Clients, client: int, server_round: int, payload: FedAvgDownlinkPackage
) -> FedAvgUplinkPackage:
    deserialize_model(model, payload.model_parameters)
    images, loss = train(model, *clients.examples(client, server_round))
    return FedAvgUplinkPackage(client, serialize_model(model), images, {LOSS: loss})


def main(task: Task, record: Record) -> None:
    torch.set_num_threads(1)
    case, clients, nothing = task.what, Clients(task), Any
    server = FedAvgBaseServerHandler(
        Networks(task),
        "",
        dataset=nothing,  # which it reads only where it evaluates
        global_round=task.rounds,
        num_clients=case.clients,
        sample_ratio=case.cohort / case.clients,
        device="cpu",
        batch_size=BATCH_SIZE,
        seed=task.seed,
    )
    pool = Threads if task.contestant == "blazefl_threads" else Processes
    trainer = pool(task, clients)
    images: list[int] = []
    losses: list[float] = []
    while not server.if_stop():
        trainer.round = server.round + 1
        cohort, payload = server.sample_clients(), server.downlink_package()
        trainer.local_process(payload, cohort)
        uploads, trainer.cache = trainer.cache, []
        images.append(sum(upload.data_size for upload in uploads))
        losses.append(sum((upload.metadata or {})[LOSS] for upload in uploads) / images[-1])
        for upload in uploads:
            server.load(upload)
        record.round_done()
    record.finish(images, losses)
