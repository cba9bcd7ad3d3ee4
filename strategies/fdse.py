"""FDSE (Wang et al., CVPR 2025, arXiv 2503.13063): shared extractors by consensus, and erasers for each client."""

from collections.abc import Iterable, Mapping

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import nn

from fedsim.aggregation import RunningAverage
from fedsim.aggregation.consensus import consensus
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import ARRAYS, arrays_of
from fedsim.methods.state_split import entries_under
from fedsim.methods.training import ServerTraining
from fedsim.norms import skew_erasers

from .fedavg import FedAvg, Tensors

ERASERS = "erasers/"
"""Of a checkpoint's records, the beginning of the names of those with a client's erasers."""


class FDSE(FedAvg):
    r"""Every client of the cohort is sent the shared part of a network with ``norm=dse`` and erasers of its own.

    *Shared* is everything outside the erasers. Of each parameter the server takes the step that all directions of the
    clients' updates agree on most, of the mean length of these (``consensus``). Running statistics are averaged.

    *Erasers* travel, too, but for their running statistics, which stay. Client k's next value of each eraser's
    parameter is an average over the cohort by similarity,

    .. math:: p_k \leftarrow \sum_j w_{kj} \, p_j, \qquad w_k = \mathrm{softmax}_j (\cos(p_k, p_j) / \tau)

    A client that has not trained yet has the initial ones. The global model has the mean of all clients' erasers.

    The rules are those of the authors' code (WwZzz/FDSE_CVPR25, 01f7bd7), with an exact solution for the consensus in
    the place of an interior-point solver's. The clients' loss is in ``clients/fdse.py``.

    Args:
        tau: :math:`\tau`, above 0.

    Raises:
        UserError: If the model has no erasers, or ``tau`` is out of its range.
    """

    default_weighting = "uniform"
    uses_aggregation = False
    sends_one_model = False

    def __init__(self, model: nn.Module, training: ServerTraining | None = None, *, tau: float = 0.5) -> None:
        super().__init__(model, training)
        if not 0 < tau < float("inf"):
            raise UserError(f"strategy.tau={tau} is not possible: choose a number above 0.")
        inside = frozenset(entries_under(model, skew_erasers(model)))
        if not inside:
            raise UserError(
                "strategy=fdse needs layers with erasers of domain skew, and this network has none: leave norm out or "
                "choose norm=dse."
            )
        self.tau = tau
        self.erasing = inside & (self.parameters | self.frozen)
        """The parameters of the erasers."""
        self.personal |= inside - self.erasing
        self.initial = {name: tensor.clone() for name, tensor in model.state_dict().items() if name in self.erasing}
        self.erasers: dict[int, Tensors] = {}
        """Each client's own, once it has trained."""
        self.num_clients = 0
        self._updates: list[Tensors] = []
        self._trained: dict[int, Tensors] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the cohort, each with the client's own erasers."""
        self.num_clients = len(list(grid.get_node_ids()))
        self._updates, self._trained = [], {}
        return self._with_erasers(super().configure_train(server_round, arrays, config, grid))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to all clients, each with the client's own erasers."""
        return self._with_erasers(super().configure_evaluate(server_round, arrays, config, grid))

    def reply_tensors(self, reply: Message) -> Tensors:
        """Return the shared part of a reply, of which only the statistics are averaged."""
        return {name: tensor for name, tensor in super().reply_tensors(reply).items() if name not in self.erasing}

    def read_reply(self, reply: Message) -> None:
        """Keep the updates of the shared parameters, and the trained erasers."""
        super().read_reply(reply)
        sent, trained = self.sent_tensors, super().reply_tensors(reply)
        shared = [name for name in trained if name in self.parameters and name not in self.erasing]
        self._updates.append({name: trained[name].double() - sent[name].to(trained[name]).double() for name in shared})
        client = reply.metadata.src_node_id
        self._trained[client] = {name: trained[name] for name in trained if name in self.erasing}

    def server_update(self, server_round: int, before: Tensors, average: Tensors) -> Tensors:
        """Return the shared parameters after the step that the cohort agrees on."""
        updated = {}
        for name in average:
            step = consensus([each[name] for each in self._updates])
            updated[name] = (before[name].double().to(step.device) + step).to(before[name].dtype)
        return updated

    def after_aggregation(self, server_round: int, arrays: Tensors) -> Tensors:
        """Average the erasers for each client of the cohort; return the model with the mean over all clients."""
        self.erasers |= similarity_averages(self._trained, self.tau)
        travelling = next(iter(self._trained.values())).keys()
        mean = RunningAverage()
        for each in self.erasers.values():
            mean.add(each, 1.0)
        left = self.num_clients - len(self.erasers)
        if left:
            mean.add({name: self.initial[name] for name in travelling}, left)
        return {**arrays, **mean.result()}

    def state(self) -> RecordDict:
        """Return the inherited state and the clients' erasers."""
        kept = {f"{ERASERS}{client}": to_record(each) for client, each in sorted(self.erasers.items())}
        return RecordDict({**super().state(), **kept})

    def load_state(self, state: RecordDict) -> None:
        """Restore what ``state`` returned."""
        super().load_state(state)
        self.erasers = {
            int(name.removeprefix(ERASERS)): to_tensors(record)
            for name, record in state.array_records.items()
            if name.startswith(ERASERS)
        }

    def _with_erasers(self, messages: Iterable[Message]) -> list[Message]:
        """Return the messages with the erasers of their clients in the place of the global model's."""
        messages = list(messages)
        for message in messages:
            arrays = arrays_of(message)
            own = self.erasers.get(message.metadata.dst_node_id)
            if own is None:
                own = {name: self.initial[name] for name in arrays if name in self.erasing}
            message.content = RecordDict({**message.content, ARRAYS: to_record({**to_tensors(arrays), **own})})
        return messages


def similarity_averages(erasers: Mapping[int, Tensors], tau: float) -> dict[int, Tensors]:
    """Return, for each client, the averages of all clients' parameters, weighted by their similarity to its own."""
    clients = list(erasers)
    averages: dict[int, Tensors] = {client: {} for client in clients}
    for name, first in erasers[clients[0]].items():
        rows = torch.stack([erasers[client][name].double().flatten() for client in clients])
        directions = nn.functional.normalize(rows, dim=1)
        weights = (directions @ directions.T / tau).softmax(dim=1)
        for client, row in zip(clients, weights @ rows, strict=True):
            averages[client][name] = row.view(first.shape).to(first.dtype)
    return averages
