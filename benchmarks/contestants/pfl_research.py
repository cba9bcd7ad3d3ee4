"""Apple's pfl-research: its FederatedAveraging in processes that torch.distributed joins, as its guide has them.

Every process runs the whole program and trains its part of each cohort; the first of them is this one.
"""

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from typing import Any

from benchmarks.contestants.cases import BATCH_SIZE, LEARNING_RATE, Task
from benchmarks.contestants.record import Record
from benchmarks.contestants.training import TEST_BATCH, Clients, normalized

RANK, ADDRESSES = "PFL_WORKER_RANK", "PFL_WORKER_ADDRESSES"


def main(task: Task, record: Record) -> None:
    os.environ["PFL_PYTORCH_DEVICE"] = "cpu"
    others: list[subprocess.Popen[bytes]] = []
    if task.workers > 1 and RANK not in os.environ:
        os.environ[ADDRESSES] = ",".join(f"127.0.0.1:{port}" for port in free_ports(task.workers))
        command = [sys.executable, "-m", "benchmarks.contestants.run", task.text()]
        others = [
            subprocess.Popen(command, env=os.environ | {RANK: str(rank)}, stdout=subprocess.DEVNULL)
            for rank in range(1, task.workers)
        ]
        os.environ[RANK] = "0"
    simulate(task, record)  # the variables are read when pfl is imported
    for other in others:
        # A process of torch.distributed may abort while it ends, after the last round.
        assert other.wait() in (0, -signal.SIGABRT)


def free_ports(count: int) -> list[int]:
    opened = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in opened]
    for each in opened:
        each.close()
    return ports


def simulate(task: Task, record: Record) -> None:
    import numpy as np
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.aggregate.weighting import WeightByDatapoints
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.callback.central_evaluation import CentralEvaluationCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import MinimizeReuseUserSampler
    from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
    from pfl.internal.ops.selector import get_framework_module
    from pfl.metrics import Metrics, Weighted
    from pfl.model.pytorch import PyTorchModel
    from torch import nn
    from torch.nn import functional as F

    from benchmarks.contestants.networks import network_of

    torch.set_num_threads(1)
    np.random.seed(task.seed)  # of the cohorts, which all processes must draw alike
    case, clients = task.what, Clients(task)
    first = int(os.environ.get(RANK, 0)) == 0

    class Scored(nn.Module):
        """The network with the two functions that pfl asks for."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network_of(task)
            self.images, self.total = 0, torch.zeros(())

        def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            self.train()
            loss = F.cross_entropy(self.network(images), labels)
            self.images += len(labels)
            self.total += loss.detach() * len(labels)
            return loss

        @torch.no_grad()
        def metrics(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Weighted]:
            self.eval()
            logits = self.network(images)
            loss = F.cross_entropy(logits, labels, reduction="sum").item()
            right = (logits.argmax(1) == labels).sum().item()
            return {"loss": Weighted(loss, len(labels)), "accuracy": Weighted(right, len(labels))}

    class Unevaluated(FederatedAveraging):
        """Leaves out that each client of every n-th round, the first among them, is tested before and after."""

        def get_next_central_contexts(self, *args: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
            contexts, model, metrics = super().get_next_central_contexts(*args, **kwargs)
            if contexts is not None:
                contexts = tuple(replace(each, do_evaluation=False) for each in contexts)
            return contexts, model, metrics

    trained: list[tuple[float, float]] = []
    network = Scored()

    class Clock(TrainingProcessCallback):  # type: ignore[type-arg]
        def after_central_iteration(self, *args: Any, **kwargs: Any) -> tuple[bool, Metrics]:
            trained.append((network.images, float(network.total)))
            network.images, network.total = 0, torch.zeros(())
            if first:
                record.round_done()
            return False, Metrics()

    def dataset_of(client: int) -> Dataset:
        return Dataset(clients.examples(client, server_round=len(trained) + 1), user_id=str(client))

    federation = FederatedDataset(dataset_of, MinimizeReuseUserSampler(range(case.clients)))
    model = PyTorchModel(
        network,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),  # 1: the average itself
    )
    callbacks: list[Any] = []
    testing = NNEvalHyperParams(local_batch_size=TEST_BATCH)
    if case.evaluates:
        images, labels = (torch.from_numpy(np.array(each)) for each in clients.test)
        callbacks.append(CentralEvaluationCallback(Dataset((normalized(images), labels)), testing))
    Unevaluated().run(
        NNAlgorithmParams(
            central_num_iterations=task.rounds,
            evaluation_frequency=1,
            train_cohort_size=case.cohort,
            val_cohort_size=None,
        ),
        SimulatedBackend(federation, federation, postprocessors=[WeightByDatapoints()]),
        model,
        NNTrainHyperParams(local_batch_size=BATCH_SIZE, local_num_epochs=1, local_learning_rate=LEARNING_RATE),
        testing,
        [*callbacks, Clock()],
        send_metrics_to_platform=False,
    )
    (sums,) = get_framework_module().distributed.all_reduce([torch.tensor(trained)])
    if first:
        record.finish([int(seen) for seen, _ in sums.tolist()], [loss / seen for seen, loss in sums.tolist()])
