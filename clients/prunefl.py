"""PruneFL's client (Jiang et al., TNNLS 2022, arXiv 1909.12326): it adds up the squared gradients of all weights."""

import torch
from flwr.app import ArrayRecord, ConfigRecord
from torch import nn

from clients.masked_sgd import MaskedSGD
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import ROUND
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.sparse.masks import entry
from fedsim.methods.sparse.records import MASKS, SQUARES, SQUARES_SINCE

SUMS = "gradient sums"


class PruneFL(MaskedSGD):
    r"""Keeps, from one adjustment of the masks to the next, of each weight that may be pruned, active or not,

    .. math:: \sum_t \Big( \sum_i g_{t,i} \Big)^2

    over the rounds t in which it trains and the gradients g of the steps i in them (as the authors' code has it), and
    sends that, by layer in the shape of the weight, when it is asked to. Sums that begin with another round than
    the server names belong to an adjustment that went by, and are dropped.
    """

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Begin the sums over the steps of this round, if they are wanted."""
        super().begin(model, context)
        if _since(context):
            context.scratch[SUMS] = {}

    def before_step(self, model: nn.Module, context: TrainingContext) -> None:
        """Add up the gradients, before those of weights that are not there are dropped."""
        if SUMS in context.scratch:
            for layer in context.scratch[MASKS]:
                weight = model.get_parameter(entry(layer))
                total = context.scratch[SUMS].setdefault(layer, torch.zeros_like(weight, requires_grad=False))
                if weight.grad is not None:  # else the layer is used in no pass of this step
                    total += weight.grad
        super().before_step(model, context)

    def end(self, model: nn.Module, context: TrainingContext) -> None:
        """Keep the squares of the sums, or send them."""
        super().end(model, context)
        if SUMS in context.scratch:
            squares = {layer: total.square() for layer, total in context.scratch[SUMS].items()}
            self._keep(squares, ConfigRecord({ROUND: _since(context)}), context)
            if context.config.get(SQUARES):
                context.reply[SQUARES] = context.state.pop(SQUARES)

    def _keep(self, squares: dict[str, torch.Tensor], since: ConfigRecord, context: TrainingContext) -> None:
        """Add this round's squares to those that the client has of the same period."""
        known = context.state.get(SQUARES)
        if isinstance(known, ArrayRecord) and context.state.get(SQUARES_SINCE) == since:
            before = to_tensors(known)
            squares = {layer: square + before[layer].to(square.device) for layer, square in squares.items()}
        context.state[SQUARES], context.state[SQUARES_SINCE] = to_record(squares), since


def _since(context: TrainingContext) -> int:
    return int(str(context.config.get(SQUARES_SINCE, 0)))
