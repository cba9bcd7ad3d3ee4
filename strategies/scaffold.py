"""SCAFFOLD (Karimireddy et al., ICML 2020, arXiv 1910.06378): control variates correct the drift of local training."""

from collections.abc import Iterable
from types import MappingProxyType

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from torch import nn

from fedsim.aggregation import RunningAverage
from fedsim.aggregation.privacy import refuse_noise
from fedsim.core.errors import UserError
from fedsim.cost import Workload
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.reply_records import Question, refuse_other_form, refuse_other_names, refuse_too_large
from fedsim.methods.reply_records import Tensors as Reported
from fedsim.methods.training import ServerTraining

from .fedavg import FedAvg, Tensors

CONTROL = "control"
"""The record of the server's control variate c in a message, and of the change of the client's own in a reply."""


def check_control(tensors: Reported, question: Question) -> None:
    """Refuse changes of a control variate whose names, shapes or types differ from the model's, or that are too large.

    Raises:
        ReplyFault: If an entry does not pass; the message names it.
    """
    trained = [name for name in question.sent if name in question.records[CONTROL]]
    refuse_other_names(tensors, trained, "control variates")
    for name, tensor in tensors.items():
        refuse_other_form(name, tensor, question.initial[name])
        refuse_too_large(name, tensor, question)


class Scaffold(FedAvg):
    r"""Sends the control variate c of the server with the model, and moves it by the mean change of the clients' own,

    .. math:: x \leftarrow x + \eta_g \Big( \tfrac{1}{|S|} \sum_{i \in S} y_i - x \Big), \qquad
              c \leftarrow c + \frac{|S|}{N} \cdot \frac{1}{|S|} \sum_{i \in S} (c_i^+ - c_i)

    over the cohort S out of N clients (Algorithm 1). Control variates exist for the shared parameters, not for running
    statistics, which are averaged plainly. The client side is in ``clients/scaffold.py``.

    Args:
        server_lr: :math:`\eta_g`, above 0; 1 takes the average.

    Raises:
        UserError: If ``server_lr`` is out of its range or the aggregation adds noise.
    """

    default_weighting = "uniform"
    reply_records = MappingProxyType({CONTROL: check_control})
    training_load = Workload(extra_vectors=3)  # the model that was sent, c and c_i

    def __init__(self, model: nn.Module, training: ServerTraining | None = None, *, server_lr: float = 1.0) -> None:
        super().__init__(model, training)
        refuse_noise(self.aggregation, "strategy=scaffold", "changes of control variates")
        if not 0 < server_lr < float("inf"):
            raise UserError(f"strategy.server_lr={server_lr} is not possible: choose a number above 0.")
        self.server_lr = server_lr
        self.control: Tensors = {}
        self.num_clients = 0
        self._changes = RunningAverage()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages to the cohort with the control variate, which starts at zero."""
        if not self.control:
            travelling = to_tensors(self.arrays_to_train(arrays))
            self.control = {name: torch.zeros_like(travelling[name]) for name in travelling if name in self.parameters}
        self.num_clients = len(list(grid.get_node_ids()))
        self._changes = RunningAverage()
        return super().configure_train(server_round, arrays, config, grid)

    def round_records(self, server_round: int) -> RecordDict:
        """Return the server's control variate."""
        return RecordDict({CONTROL: to_record(self.control)})

    def read_reply(self, reply: Message) -> None:
        """Add the change of the client's control variate to the average."""
        super().read_reply(reply)
        self._changes.add(to_tensors(reply.content.array_records[CONTROL]), 1.0)

    def server_update(self, server_round: int, before: Tensors, average: Tensors) -> Tensors:
        """Return the parameters after the step from the model that was sent towards the average."""
        if self.server_lr == 1:
            return average
        return {name: before[name].lerp(average[name].to(before[name]), self.server_lr) for name in average}

    def after_aggregation(self, server_round: int, arrays: Tensors) -> Tensors:
        """Update the server's control variate; return the model unchanged."""
        share = self.num_successful / self.num_clients
        changes = self._changes.result()
        self.control = {name: c + share * changes[name].to(c.device) for name, c in self.control.items()}
        return arrays

    def state(self) -> RecordDict:
        """Return the inherited state and the server's control variate."""
        return RecordDict({**super().state(), CONTROL: to_record(self.control)})

    def load_state(self, state: RecordDict) -> None:
        """Restore what ``state`` returned."""
        super().load_state(state)
        self.control = to_tensors(state.array_records[CONTROL])
