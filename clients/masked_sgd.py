"""Local SGD of a sparse network, and gradients of its inactive weights."""

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
    """Trains the active weights; the masked ones are zero before, during and after training.

    On request, the reply contains the largest gradients of inactive weights (``largest_gradients``), of the trained
    network on one more batch.
    """

    stackable = True

    queries = MappingProxyType(
        {BN_STATISTICS: bn_statistics, CANDIDATE_LOSS: candidate_loss, LAYER_GRADIENTS: layer_gradients}
    )

    def unpack(self, arrays: Tensors, model: nn.Module, context: ClientContext) -> Tensors:
        """Return dense weights from active weights and masks; store the masks in ``context.scratch``.

        Raises:
            RuntimeError: If the client state has no masks.
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
        """Return the entries with each masked weight reduced to a vector of its active weights."""
        return pack(context.scratch[MASKS], entries)

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Move the masks to the device of the data."""
        masks: Masks = context.scratch[MASKS]
        context.scratch[MASKS] = {layer: mask.to(context.data.labels.device) for layer, mask in masks.items()}

    def before_step(self, model: nn.Module, context: TrainingContext) -> None:
        """Set the gradients of inactive weights to zero: with those, weights of zero stay zero in every optimizer."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for layer, mask in context.scratch[MASKS].items():
            gradient = parameters[entry(layer)].grad
            if gradient is not None:
                gradient.mul_(mask)

    def end(self, model: nn.Module, context: TrainingContext) -> None:
        """Add the largest gradients to the reply, if requested."""
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
        """Return ``largest_gradients`` of the model, in training mode, on one more batch of the client's images."""
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
