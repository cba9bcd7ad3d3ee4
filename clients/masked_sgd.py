"""Local SGD of a sparse network, and the gradients of weights that it does not have."""

from collections.abc import Mapping

import torch
from flwr.app import ArrayRecord
from torch import nn
from torch.nn import functional as F

from clients.local_sgd import LocalSGD
from datasets.examples import Examples
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import GRADIENTS, GROW, MASKS, PLACES, VALUES, counts_of
from fedsim.methods.interfaces import Turn
from fedsim.methods.sparse.gradients import largest_gradients
from fedsim.methods.sparse.masks import Masks, decode, entry, pack, unpack
from fedsim.models.restored import buffers_restored


class MaskedSGD(LocalSGD):
    """Weights that a mask leaves out are zero before, in and after training; the others are trained as ever.

    Asked to, it adds to its reply the largest gradients of weights that are left out (``largest_gradients``), of the
    trained network and one more batch.
    """

    masks: Masks

    def unpack(self, arrays: Mapping[str, torch.Tensor], model: nn.Module, turn: Turn) -> Mapping[str, torch.Tensor]:
        """Numbers and mask become weights again. Errors: ``RuntimeError`` if the mask is not there."""
        record = turn.sent.get(MASKS) or turn.state.get(MASKS)
        if not isinstance(record, ArrayRecord):
            raise RuntimeError(
                "the masks are missing: the server gives them to a client once, so it has lost its state"
            )
        parameters = dict(model.named_parameters())
        self.masks = decode(to_tensors(record), {layer: parameters[entry(layer)].shape for layer in record})
        return unpack(self.masks, arrays)

    def pack(self, entries: Mapping[str, torch.Tensor], model: nn.Module, turn: Turn) -> Mapping[str, torch.Tensor]:
        return pack(self.masks, entries)

    def train(self, model: nn.Module, data: Examples, turn: Turn) -> dict[str, float]:
        device = data.labels.device
        self.masks = {layer: mask.to(device) for layer, mask in self.masks.items()}
        metrics = super().train(model, data, turn)
        wanted = counts_of(turn.config, GROW)
        if wanted:
            found = self.largest_of_a_batch(model, data, turn, self.masks, wanted)
            turn.reply[GRADIENTS] = to_record(
                {
                    f"{layer}{kind}": tensor
                    for layer, (places, values) in found.items()
                    for kind, tensor in ((PLACES, places), (VALUES, values))
                }
            )
        return metrics

    def before_step(self, model: nn.Module) -> None:
        """Without a gradient a weight of zero stays zero, in every optimizer there is."""
        for layer, mask in self.masks.items():
            gradient = model.get_parameter(entry(layer)).grad
            if gradient is not None:
                gradient.mul_(mask)

    def largest_of_a_batch(
        self, model: nn.Module, data: Examples, turn: Turn, masks: Masks, counts: Mapping[str, int]
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """``largest_gradients`` of the model, which is training, on one more batch of the client's images."""
        indices = torch.randperm(len(data), generator=turn.generator)[: self.training.batch_size]
        images, labels = data.batch(indices.to(data.labels.device), turn.generator)
        with buffers_restored(model):
            return largest_gradients(model, lambda: F.cross_entropy(model(images), labels), masks, counts)
