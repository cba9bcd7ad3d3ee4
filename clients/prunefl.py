"""PruneFL's client (Jiang et al., TNNLS 2022, arXiv 1909.12326): it adds up the squared gradients of all weights."""

import torch
from flwr.app import ArrayRecord, ConfigRecord
from torch import nn

from clients.masked_sgd import MaskedSGD
from datasets.examples import Examples
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import ROUND, SQUARES, SQUARES_SINCE
from fedsim.methods.interfaces import Turn
from fedsim.methods.sparse.masks import entry

KEPT_SINCE = "squares-since"
"""The record of a client's state that says with which round the sums that it keeps begin."""


class PruneFL(MaskedSGD):
    r"""Keeps, from one adjustment of the masks to the next, of each weight that may be pruned, active or not,

    .. math:: \sum_t \Big( \sum_i g_{t,i} \Big)^2

    over the rounds t in which it trains and the gradients g of the steps i in them (as the authors' code has it), and
    sends that, by layer in the shape of the weight, when it is asked to. Sums that begin with another round than
    the server names belong to an adjustment that went by, and are dropped.
    """

    _gradients: dict[str, torch.Tensor] | None = None
    """Their sums over the steps of this round, if they are wanted"""

    def train(self, model: nn.Module, data: Examples, turn: Turn) -> dict[str, float]:
        since = int(str(turn.config.get(SQUARES_SINCE, 0)))
        self._gradients = {} if since else None
        metrics = super().train(model, data, turn)
        if self._gradients is not None:
            squares = {layer: total.square() for layer, total in self._gradients.items()}
            self._gradients = None
            self._keep(squares, ConfigRecord({ROUND: since}), turn)
            if turn.config.get(SQUARES):
                turn.reply[SQUARES] = turn.state.pop(SQUARES)
        return metrics

    def before_step(self, model: nn.Module) -> None:
        """Before the gradients of weights that are not there are dropped."""
        if self._gradients is not None:
            for layer in self.masks:
                weight = model.get_parameter(entry(layer))
                total = self._gradients.setdefault(layer, torch.zeros_like(weight, requires_grad=False))
                if weight.grad is not None:  # else the layer is used in no pass of this step
                    total += weight.grad
        super().before_step(model)

    def _keep(self, squares: dict[str, torch.Tensor], since: ConfigRecord, turn: Turn) -> None:
        """Adds this round's squares to those that the client has of the same period."""
        known = turn.state.get(SQUARES)
        if isinstance(known, ArrayRecord) and turn.state.get(KEPT_SINCE) == since:
            before = to_tensors(known)
            squares = {layer: square + before[layer].to(square.device) for layer, square in squares.items()}
        turn.state[SQUARES], turn.state[KEPT_SINCE] = to_record(squares), since
