"""LotteryFL's client (Li et al., SEC 2021, arXiv 2008.03371): it prunes its part of the network and begins it anew."""

import torch
from torch import nn

from clients.local_sgd import Tensors
from clients.masked_sgd import MaskedSGD
from datasets.examples import evaluation_batches
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record
from fedsim.methods.interfaces import ClientContext, TrainingContext
from fedsim.methods.sparse.masks import Masks, apply, encode, entry, pack
from fedsim.methods.sparse.masks import density as share_of
from fedsim.methods.sparse.records import MASKS
from fedsim.methods.sparse.tickets import without_percentile
from fedsim.methods.training import LocalTraining
from fedsim.models.restored import undisturbed

SENT = "masks of the message"


class LotteryFL(MaskedSGD):
    """Trains the weights of its own mask; before that it prunes, where the received network is good enough for it.

    That is where its accuracy on the client's training images is above ``accuracy`` and the network is not yet at
    ``density``: of each layer the share ``rate`` of the smallest active weights is pruned, and the others begin again
    with their initial values, as the biases and norm layers do (the lottery ticket hypothesis). The paper measures the
    accuracy on validation images, which not every client has, the official code on some of the test images.

    Args:
        training: The settings of local training.
        rate: The share of the active weights of each layer that a pruning takes.
        accuracy: The accuracy above which a client prunes.
        density: A client prunes while its share of the weights of all layers that may be pruned is above it.

    Raises:
        UserError: If ``rate`` is not in (0, 1), or ``accuracy`` or ``density`` not in [0, 1].
    """

    stackable = True

    def __init__(self, training: LocalTraining, rate: float, accuracy: float, density: float) -> None:
        super().__init__(training)
        if not 0 < rate < 1:
            raise UserError(f"strategy.rate={rate} is not possible: choose a number above 0 and below 1.")
        for name, value in (("accuracy", accuracy), ("density", density)):
            if not 0 <= value <= 1:
                raise UserError(f"strategy.{name}={value} is not possible: choose a number from 0 to 1.")
        self.rate, self.accuracy, self.density = rate, accuracy, density

    def unpack(self, arrays: Tensors, model: nn.Module, context: ClientContext) -> Tensors:
        """Return dense weights from the active ones and the client's masks."""
        whole = super().unpack(arrays, model, context)
        context.scratch[SENT] = context.scratch[MASKS]
        return whole

    def pack(self, entries: Tensors, model: nn.Module, context: TrainingContext) -> Tensors:
        """Return the entries in the form of the message, with zeros where the client has pruned since."""
        return pack(context.scratch[SENT], entries)

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Prune, where the network is good enough."""
        super().begin(model, context)
        masks: Masks = context.scratch[MASKS]
        if share_of(masks) <= self.density or _accuracy(model, context) <= self.accuracy:
            return
        masks = without_percentile({layer: model.get_parameter(entry(layer)) for layer in masks}, masks, self.rate)
        initial = apply(masks, context.initial)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(initial[name])
        context.scratch[MASKS] = masks
        context.reply[MASKS] = to_record(encode({layer: mask.cpu() for layer, mask in masks.items()}))


def _accuracy(model: nn.Module, context: TrainingContext) -> float:
    """Return the accuracy of the model on the client's training images."""
    data, right = context.data, 0
    with undisturbed(model):
        model.eval()
        for indices in evaluation_batches(len(data)):
            images, labels = data.batch(indices.to(data.labels.device))
            right += int((model(images).argmax(1) == labels).sum())
    return right / len(data)
