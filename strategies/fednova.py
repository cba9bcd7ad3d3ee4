"""FedNova (Wang et al., NeurIPS 2020, arXiv 2007.07481): updates are normalized by how many steps were made."""

from types import MappingProxyType

from flwr.app import Message
from torch import nn

from fedsim.aggregation.privacy import refuse_noise
from fedsim.messages.schema import METRICS, metrics_of, number
from fedsim.methods.reply_records import Question, refuse_without
from fedsim.methods.reply_records import Tensors as Reported
from fedsim.methods.training import ServerTraining

from .fedavg import FedAvg, Tensors

NORMALIZER = "normalizer"
"""The metric of a reply with the client's :math:`a_i`."""


def check_normalizer(tensors: Reported, question: Question) -> None:
    """Refuse a reply whose normalizer is no number above 0.

    Raises:
        ReplyFault: With the number.
    """
    refuse_without(NORMALIZER, question, above=0)


class FedNova(FedAvg):
    r"""Averages the clients' updates per step, and takes the average number of steps of them:

    .. math:: x \leftarrow x - \tau_{\text{eff}} \sum_i p_i d_i, \qquad d_i = \frac{x - y_i}{a_i}, \qquad
              \tau_{\text{eff}} = \sum_i p_i a_i

    where client i of weight :math:`p_i` reports :math:`a_i = \lVert \mathbf a_i \rVert_1` of its :math:`\tau_i` steps
    (``clients/fednova.py``). So clients that make more steps do not pull the model towards their own optimum. With as
    many steps on every client it is FedAvg, bit for bit. Statistics are averaged plainly.
    """

    reply_records = MappingProxyType({METRICS: check_normalizer})

    def __init__(self, model: nn.Module, training: ServerTraining | None = None) -> None:
        super().__init__(model, training)
        refuse_noise(self.aggregation, "strategy=fednova", "their numbers of steps")
        self._first: float | None = None
        """The normalizer of the first reply of a round, in which the others are measured."""
        self._normalizers = self._weights = 0.0

    def reply_tensors(self, reply: Message) -> Tensors:
        """Return the model that the client would have after as many steps of its mean update as the first made."""
        tensors, normalizer = super().reply_tensors(reply), number(metrics_of(reply), NORMALIZER)
        self._first = normalizer if self._first is None else self._first
        self._normalizers += self.weight(reply) * (normalizer / self._first)
        self._weights += self.weight(reply)
        if normalizer == self._first:
            return tensors
        sent, scale = self.sent_tensors, self._first / normalizer
        return {
            name: sent[name] + scale * (tensor - sent[name].to(tensor)) if name in self.parameters else tensor
            for name, tensor in tensors.items()
        }

    def server_update(self, server_round: int, before: Tensors, average: Tensors) -> Tensors:
        """Take as many steps as clients made on average."""
        steps = self._normalizers / self._weights
        self._first, self._normalizers, self._weights = None, 0.0, 0.0
        if steps == 1:
            return average  # to the last bit, which differences would round
        return {name: before[name] + steps * (average[name].to(before[name]) - before[name]) for name in average}
