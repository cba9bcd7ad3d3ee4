"""PruneFL's client (Jiang et al., TNNLS 2022, arXiv 1909.12326): it accumulates squared gradients of all weights."""

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
    r"""Accumulates, from one adjustment of the masks to the next, for each prunable weight, active or not,

    .. math:: \sum_t \Big( \sum_i g_{t,i} \Big)^2

    over the rounds t in which it trains and the gradients g of their steps i (as in the authors' code), and sends these
    sums, by layer in the shape of the weight, on request. Sums that began with another round than the server names
    belong to an earlier adjustment and are discarded.
    """

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Start the sums over the steps of this round, if requested."""
        super().begin(model, context)
        if _since(context):
            context.scratch[SUMS] = {}

    def before_step(self, model: nn.Module, context: TrainingContext) -> None:
        """Add the gradients to the sums, before those of inactive weights are set to zero."""
        if SUMS in context.scratch:
            for layer in context.scratch[MASKS]:
                weight = model.get_parameter(entry(layer))
                total = context.scratch[SUMS].setdefault(layer, torch.zeros_like(weight, requires_grad=False))
                if weight.grad is not None:  # None if no pass of this step uses the layer
                    total += weight.grad
        super().before_step(model, context)

    def end(self, model: nn.Module, context: TrainingContext) -> None:
        """Add the squares of the sums to the client state; move them to the reply, if requested."""
        super().end(model, context)
        if SUMS in context.scratch:
            squares = {layer: total.square() for layer, total in context.scratch[SUMS].items()}
            self._keep(squares, ConfigRecord({ROUND: _since(context)}), context)
            if context.config.get(SQUARES):
                context.reply[SQUARES] = context.state.pop(SQUARES)

    def _keep(self, squares: dict[str, torch.Tensor], since: ConfigRecord, context: TrainingContext) -> None:
        """Add this round's squares to those in the client state, if these are of the same period; else replace them."""
        known = context.state.get(SQUARES)
        if isinstance(known, ArrayRecord) and context.state.get(SQUARES_SINCE) == since:
            before = to_tensors(known)
            squares = {layer: square + before[layer].to(square.device) for layer, square in squares.items()}
        context.state[SQUARES], context.state[SQUARES_SINCE] = to_record(squares), since


def _since(context: TrainingContext) -> int:
    return int(str(context.config.get(SQUARES_SINCE, 0)))
