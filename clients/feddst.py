"""FedDST (Bibikar et al., AAAI 2022, arXiv 2112.09824): each client adjusts its own masks while it trains."""

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
    """On request, replaces active weights once during training and sends the new masks of those layers.

    After the share ``adjust_after`` of its steps, rounded down, a layer's smallest active weights are pruned, as many
    as requested, and as many of the inactive ones are activated with the value zero: those with the largest gradients
    on one more batch of the client's images. As in RigL (Evci et al., ICML 2020, arXiv 1911.11134) the gradients are
    those of the network before pruning, and a pruned weight may be activated again. The optimizer keeps its state, such
    as momentum, of the weights that stay active; that of all others is set to zero.

    Raises:
        UserError: If ``adjust_after`` is not in [0, 1].
    """

    def __init__(self, training: LocalTraining, adjust_after: float) -> None:
        super().__init__(training)
        if not 0 <= adjust_after <= 1:
            raise UserError(f"strategy.adjust_after={adjust_after} is not possible: choose a number from 0 to 1.")
        self.adjust_after = adjust_after

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Prepare the masks; replace weights before the first step if ``adjust_after`` rounds down to 0 steps."""
        super().begin(model, context)
        if int(self.adjust_after * context.steps) == 0:
            self._replace(model, context)

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, context: TrainingContext) -> None:
        """Replace weights once the share ``adjust_after`` of the steps is done."""
        if context.step == int(self.adjust_after * context.steps):
            self._replace(model, context, optimizer)

    def end(self, model: nn.Module, context: TrainingContext) -> None:
        """Add the masks of the adjusted layers to the reply."""
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
            # With its optimizer state at zero, a weight without a gradient stays zero, and a newly active weight starts
            # like any other.
            known = [] if optimizer is None else optimizer.state[weight].values()
            for tensor in (weight.detach(), *known):
                if isinstance(tensor, torch.Tensor) and tensor.shape == weight.shape:
                    tensor.mul_(left[layer])
            masks[layer] = with_places(left[layer], found[layer][0])
