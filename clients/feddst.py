"""FedDST (Bibikar et al., AAAI 2022, arXiv 2112.09824): each client finds weights of its own while it trains."""

import torch
from torch import nn

from clients.masked_sgd import MaskedSGD
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.sparse.adjustment import with_places, without_smallest
from fedsim.methods.sparse.masks import encode, entry
from fedsim.methods.sparse.records import MASKS, REPLACE, counts_of
from fedsim.methods.training import LocalTraining


class FedDST(MaskedSGD):
    """Asked to, it replaces weights once in its training and sends the masks of those layers with its weights.

    After ``adjust_after`` of its steps, rounded down, the smallest of a layer's active weights go, as many as it was
    asked for, and as many come, as zeros: those of what is then inactive with the largest gradients, on one more batch
    of its images. As in RigL (Evci et al., ICML 2020, arXiv 1911.11134) the gradients are those of the network before
    weights go, and what goes may come back. The optimizer goes on with what it knows of the weights that stay, and with
    nothing of the others.
    """

    def __init__(self, training: LocalTraining, adjust_after: float) -> None:
        super().__init__(training)
        if not 0 <= adjust_after <= 1:
            raise UserError(f"strategy.adjust_after={adjust_after} is not possible: choose a number from 0 to 1.")
        self.adjust_after = adjust_after

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Replace weights before the first step, if it is due then."""
        super().begin(model, context)
        if int(self.adjust_after * context.steps) == 0:
            self._replace(model, context)

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, context: TrainingContext) -> None:
        """Replace weights once the share of the steps is done."""
        if context.step == int(self.adjust_after * context.steps):
            self._replace(model, context, optimizer)

    def end(self, model: nn.Module, context: TrainingContext) -> None:
        """Send the masks of the layers that were adjusted."""
        super().end(model, context)
        counts = counts_of(context.config, REPLACE)
        if counts:
            masks = context.scratch[MASKS]
            context.reply[MASKS] = to_record(encode({layer: masks[layer] for layer in counts}))

    def _replace(
        self, model: nn.Module, context: TrainingContext, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        counts, masks = counts_of(context.config, REPLACE), context.scratch[MASKS]
        if not counts:
            return
        weights = {layer: model.get_parameter(entry(layer)) for layer in counts}
        left = {
            layer: without_smallest(weights[layer], masks[layer].to(weights[layer].device), count)
            for layer, count in counts.items()
        }
        found = self.largest_of_a_batch(model, context, left, counts)
        for layer, weight in weights.items():
            # Without what the optimizer knows of it, a weight without a gradient stays zero, and one that comes starts
            # like any other.
            known = [] if optimizer is None else optimizer.state[weight].values()
            for tensor in (weight.detach(), *known):
                if isinstance(tensor, torch.Tensor) and tensor.shape == weight.shape:
                    tensor.mul_(left[layer])
            masks[layer] = with_places(left[layer], found[layer][0])
