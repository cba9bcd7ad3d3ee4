"""LotteryFL's client (Li et al., SEC 2021, arXiv 2008.03371): it prunes its part of the network and begins it anew."""

import torch
from flwr.app import ArrayRecord, ConfigRecord
from torch import nn

from clients.local_sgd import Tensors
from clients.masked_sgd import MaskedSGD
from datasets.examples import evaluation_batches
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import ClientContext, TrainingContext
from fedsim.methods.sparse.masks import Masks, apply, decode, encode, entry, pack, prunable_layers, unpack
from fedsim.methods.sparse.records import MASKS
from fedsim.methods.sparse.tickets import all_ones, without_percentile
from fedsim.methods.training import LocalTraining
from fedsim.models.restored import undisturbed

PRUNINGS = "prunings"
"""The record, and its entry, with how often the client has pruned."""
SENT = "masks of the message"


class LotteryFL(MaskedSGD):
    """Trains the weights of its own mask; before that it prunes, where the received network is good enough for it.

    That is where its accuracy on the client's training images is above ``accuracy`` and the network is not yet at
    ``density``: of each layer the share ``rate`` of the smallest active weights is pruned, and the others begin again
    with their initial values, as the biases and norm layers do (the lottery ticket hypothesis). The paper measures the
    accuracy on validation images, which not every client has, the official code on some of the test images.

    Args:
        training: The settings of local training.
        dense: Layers that are not pruned.
        rate: The share of the active weights of each layer that a pruning takes.
        accuracy: The accuracy above which a client prunes.
        density: A client that has pruned k times prunes while ``(1 - rate) ** k`` is above it.

    Raises:
        UserError: If ``rate`` is not in (0, 1), or ``accuracy`` or ``density`` not in [0, 1].
    """

    def __init__(self, training: LocalTraining, dense: list[str], rate: float, accuracy: float, density: float) -> None:
        super().__init__(training)
        if not 0 < rate < 1:
            raise UserError(f"strategy.rate={rate} is not possible: choose a number above 0 and below 1.")
        for name, value in (("accuracy", accuracy), ("density", density)):
            if not 0 <= value <= 1:
                raise UserError(f"strategy.{name}={value} is not possible: choose a number from 0 to 1.")
        self.dense, self.rate, self.accuracy, self.density = dense, rate, accuracy, density

    def unpack(self, arrays: Tensors, model: nn.Module, context: ClientContext) -> Tensors:
        """Return dense weights from the active ones and the client's own masks."""
        context.scratch[MASKS] = context.scratch[SENT] = masks = self._masks(model, context)
        return unpack(masks, arrays)

    def pack(self, entries: Tensors, model: nn.Module, context: TrainingContext) -> Tensors:
        """Return the entries in the form of the message, with zeros where the client has pruned since."""
        return pack(context.scratch[SENT], entries)

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Prune, where the network is good enough."""
        super().begin(model, context)
        known = context.state.get(PRUNINGS)
        prunings = int(str(known[PRUNINGS])) if isinstance(known, ConfigRecord) else 0
        if (1 - self.rate) ** prunings <= self.density or _accuracy(model, context) <= self.accuracy:
            return
        masks: Masks = context.scratch[MASKS]
        masks = without_percentile({layer: model.get_parameter(entry(layer)) for layer in masks}, masks, self.rate)
        initial = apply(masks, context.initial)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(initial[name])
        context.scratch[MASKS] = masks
        context.state[MASKS] = context.reply[MASKS] = to_record(encode({layer: m.cpu() for layer, m in masks.items()}))
        context.state[PRUNINGS] = ConfigRecord({PRUNINGS: prunings + 1})

    def _masks(self, model: nn.Module, context: ClientContext) -> Masks:
        parameters = dict(model.named_parameters())
        shapes = {layer: parameters[entry(layer)].shape for layer in prunable_layers(model, self.dense)}
        kept = context.state.get(MASKS)
        return decode(to_tensors(kept), shapes) if isinstance(kept, ArrayRecord) else all_ones(shapes)


def _accuracy(model: nn.Module, context: TrainingContext) -> float:
    """Return the accuracy of the model on the client's training images."""
    data, right = context.data, 0
    with undisturbed(model):
        model.eval()
        for indices in evaluation_batches(len(data)):
            images, labels = data.batch(indices.to(data.labels.device))
            right += int((model(images).argmax(1) == labels).sum())
    return right / len(data)
