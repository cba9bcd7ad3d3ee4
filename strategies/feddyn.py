"""FedDyn (Acar et al., ICLR 2021, arXiv 2111.04263): the server corrects the average by what clients have drifted."""

from collections.abc import Iterable

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import nn

from fedsim.core.errors import UserError
from fedsim.cost import Workload
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.training import ServerTraining

from .fedavg import FedAvg, Tensors

DRIFT = "server drift"


class FedDyn(FedAvg):
    r"""With the average :math:`\bar w` of the cohort's models, P of m clients, and the model w that they were sent:

    .. math:: h \leftarrow h - \alpha \frac{P}{m} (\bar w - w), \qquad w \leftarrow \bar w - \frac{1}{\alpha} h

    (Algorithm 1). The clients' regularized losses are in ``clients/feddyn.py``. Statistics are averaged plainly.

    Args:
        alpha: :math:`\alpha`, above 0.
    """

    default_weighting = "uniform"
    training_load = Workload(extra_vectors=2)  # the model that was sent and the client's gradient

    def __init__(self, model: nn.Module, training: ServerTraining | None = None, *, alpha: float = 0.1) -> None:
        super().__init__(model, training)
        if not 0 < alpha < float("inf"):
            raise UserError(f"strategy.alpha={alpha} is not possible: choose a number above 0.")
        self.alpha = alpha
        self.drift: Tensors = {}
        self.num_clients = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the cohort's messages."""
        self.num_clients = len(list(grid.get_node_ids()))
        return super().configure_train(server_round, arrays, config, grid)

    def server_update(self, server_round: int, before: Tensors, average: Tensors) -> Tensors:
        """Move the drift and take it from the average."""
        share, updated = self.num_successful / self.num_clients, {}
        for name, start in before.items():
            mean = average[name].to(start)
            drift = self.drift.get(name, torch.zeros_like(start)).to(start)
            self.drift[name] = drift - self.alpha * share * (mean - start)
            updated[name] = mean - self.drift[name] / self.alpha
        return updated

    def state(self) -> RecordDict:
        """Return the drift."""
        return RecordDict({**super().state(), DRIFT: to_record(self.drift)})

    def load_state(self, state: RecordDict) -> None:
        """Take back what ``state`` returned."""
        super().load_state(state)
        self.drift = to_tensors(state.array_records[DRIFT])
