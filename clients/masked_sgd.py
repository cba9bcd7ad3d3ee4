"""Local SGD of a sparse network, and the gradients of weights that it does not have."""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import nn
from torch.nn import functional as F

from clients.local_sgd import LocalSGD, Tensors
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import ClientContext, TrainingContext
from fedsim.methods.sparse.gradients import largest_gradients
from fedsim.methods.sparse.masks import Masks, decode, entry, pack, unpack
from fedsim.methods.sparse.queries import bn_statistics, candidate_loss, layer_gradients
from fedsim.methods.sparse.records import (
    BN_STATISTICS,
    CANDIDATE_LOSS,
    GRADIENTS,
    GROW,
    LAYER_GRADIENTS,
    MASKS,
    PLACES,
    VALUES,
    counts_of,
)
from fedsim.models.restored import buffers_restored


class MaskedSGD(LocalSGD):
    """Weights that a mask leaves out are zero before, in and after training; the others are trained as ever.

    Asked to, it adds to its reply the largest gradients of weights that are left out (``largest_gradients``), of the
    trained network and one more batch.
    """

    queries = MappingProxyType(
        {BN_STATISTICS: bn_statistics, CANDIDATE_LOSS: candidate_loss, LAYER_GRADIENTS: layer_gradients}
    )

    def unpack(self, arrays: Tensors, model: nn.Module, context: ClientContext) -> Tensors:
        """Make weights of numbers and masks, which the context has in its ``scratch`` from then on.

        Raises:
            RuntimeError: If the masks are not there.
        """
        if MASKS not in context.cached:
            raise RuntimeError(
                "the masks are missing: the server gives them to a client once, so it has lost its state"
            )
        record, parameters = context.cached[MASKS], dict(model.named_parameters())
        masks = decode(to_tensors(record), {layer: parameters[entry(layer)].shape for layer in record})
        context.scratch[MASKS] = masks
        return unpack(masks, arrays)

    def pack(self, entries: Tensors, model: nn.Module, context: TrainingContext) -> Tensors:
        """Return of each masked weight the numbers that are kept."""
        return pack(context.scratch[MASKS], entries)

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Bring the masks to the device."""
        masks: Masks = context.scratch[MASKS]
        context.scratch[MASKS] = {layer: mask.to(context.data.labels.device) for layer, mask in masks.items()}

    def before_step(self, model: nn.Module, context: TrainingContext) -> None:
        """Take the gradients of what is left out: without one a weight of zero stays zero, in every optimizer."""
        for layer, mask in context.scratch[MASKS].items():
            gradient = model.get_parameter(entry(layer)).grad
            if gradient is not None:
                gradient.mul_(mask)

    def end(self, model: nn.Module, context: TrainingContext) -> None:
        """Report the largest gradients where they are asked for."""
        wanted = counts_of(context.config, GROW)
        if wanted:
            found = self.largest_of_a_batch(model, context, context.scratch[MASKS], wanted)
            context.reply[GRADIENTS] = to_record(
                {
                    f"{layer}{kind}": tensor
                    for layer, (places, values) in found.items()
                    for kind, tensor in ((PLACES, places), (VALUES, values))
                }
            )

    def largest_of_a_batch(
        self, model: nn.Module, context: TrainingContext, masks: Masks, counts: Mapping[str, int]
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return ``largest_gradients`` of the model, which is training, on one more batch of the client's images."""
        data = context.data
        indices = torch.randperm(len(data), generator=context.generator)[: self.training.batch_size]
        images, labels = data.batch(indices.to(data.labels.device), context.generator)
        with buffers_restored(model):
            return largest_gradients(
                model,
                lambda: F.cross_entropy(model(images), labels),
                masks,
                counts,
                dense=not context.on_device,
            )
