"""FedDST (Bibikar et al., AAAI 2022, arXiv 2112.09824): each client finds weights of its own while it trains."""

import torch
from torch import nn

from clients.masked_sgd import MaskedSGD
from datasets.examples import Examples
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record
from fedsim.messages.schema import MASKS, REPLACE, counts_of
from fedsim.methods.interfaces import LocalTraining, Turn
from fedsim.methods.sparse.adjustment import with_places, without_smallest
from fedsim.methods.sparse.masks import encode, entry


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
        self._due: tuple[int, Examples, Turn] | None = None
        """After how many more steps there is something to replace, and with what"""

    def fit(self, model: nn.Module, data: Examples, turn: Turn, epochs: int) -> dict[str, float]:
        counts, self._due = counts_of(turn.config, REPLACE), None
        if not counts:
            return super().fit(model, data, turn, epochs)
        steps = epochs * len(self.batches(len(data), torch.Generator()))
        self._due = int(self.adjust_after * steps), data, turn
        if self._due[0] == 0:
            model.train()
            self._replace(model, data, turn)
        metrics = super().fit(model, data, turn, epochs)
        turn.reply[MASKS] = to_record(encode({layer: self.masks[layer] for layer in counts}))
        return metrics

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if self._due is not None:
            steps, data, turn = self._due
            self._due = steps - 1, data, turn
            if steps == 1:
                self._replace(model, data, turn, optimizer)

    def _replace(
        self, model: nn.Module, data: Examples, turn: Turn, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        self._due = None
        counts = counts_of(turn.config, REPLACE)
        weights = {layer: model.get_parameter(entry(layer)) for layer in counts}
        left = {
            layer: without_smallest(weights[layer], self.masks[layer].to(weights[layer].device), count)
            for layer, count in counts.items()
        }
        found = self.largest_of_a_batch(model, data, turn, left, counts)
        for layer, weight in weights.items():
            # Without what the optimizer knows of it, a weight without a gradient stays zero, and one that comes starts
            # like any other.
            known = [] if optimizer is None else optimizer.state[weight].values()
            for tensor in (weight.detach(), *known):
                if isinstance(tensor, torch.Tensor) and tensor.shape == weight.shape:
                    tensor.mul_(left[layer])
            self.masks[layer] = with_places(left[layer], found[layer][0])
