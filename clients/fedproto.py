"""FedProto's client (Tan et al., AAAI 2022, arXiv 2105.00243): features are held near their classes' prototypes."""

import math

import torch
from flwr.app import ArrayRecord
from torch import nn
from torch.nn import functional as F

from clients.local_sgd import LocalSGD
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import PLAIN, ClientContext, TrainingContext
from fedsim.methods.training import LocalTraining
from fedsim.models.classifier import classifier_of, features_seen

PROTOTYPES = "prototypes"
"""The record of prototypes in messages and replies, and the predictor of the nearest one."""
FEATURES, SUMS = "features", "sums of features"


class FedProto(LocalSGD):
    r"""Adds :math:`\lambda` times the mean squared distance between the features in front of the classifier and the
    prototypes of their classes, :math:`\mathrm{MSE}(f, \bar C^{(y)})` (with the distance of the official code).

    Images of a class without a prototype add zero, so that a client's first round before there are any is local SGD.
    The client's own prototypes are the mean features of its last pass over the images, each as it was before its step,
    as in the official code; the paper has them of the model after training.

    A client predicts with its classifier; its predictor ``prototypes`` chooses the class of the nearest prototype, with
    the negative mean squared distance as logit, and no class without one.

    Raises:
        UserError: If ``lam`` is negative or not finite.
    """

    def __init__(self, training: LocalTraining, lam: float) -> None:
        super().__init__(training)
        if not 0 <= lam < math.inf:
            raise UserError(f"strategy.lam={lam} is not possible: choose a number of at least 0.")
        self.lam = lam

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Put the prototypes on the device, and begin the sums for new ones."""
        weight = _classifier(model).weight.detach()
        context.scratch[PROTOTYPES] = _table(context, weight)
        context.scratch[SUMS] = torch.zeros_like(weight), weight.new_zeros(len(weight))

    def passes(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Train while the features that the classifier is given are seen."""
        with features_seen(_classifier(model)) as context.scratch[FEATURES]:
            return super().passes(model, context)

    def loss(
        self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
    ) -> torch.Tensor:
        """Return the cross entropy and the distance to the prototypes; in the last pass add the features up."""
        features = context.scratch[FEATURES].pop()
        loss = super().loss(model, logits, labels, context)
        if context.step >= context.steps - context.steps // self.training.local_epochs:
            sums, counts = context.scratch[SUMS]
            sums.index_add_(0, labels, features.detach())
            counts.index_add_(0, labels, torch.ones_like(labels, dtype=counts.dtype))
        prototypes, known = context.scratch[PROTOTYPES]
        targets = torch.where(known[labels, None], prototypes[labels], features.detach())
        return loss + self.lam * F.mse_loss(features, targets)

    def end(self, model: nn.Module, context: TrainingContext) -> None:
        """Add the means of the features to the reply, for the classes of the client's images."""
        sums, counts = context.scratch[SUMS]
        held = counts.nonzero().flatten().tolist()
        context.reply[PROTOTYPES] = to_record({str(label): sums[label] / counts[label] for label in held})

    def predict(self, model: nn.Module, images: torch.Tensor, context: ClientContext) -> dict[str, torch.Tensor]:
        """Return the classifier's logits, and for a client's own model the distances to the prototypes."""
        classifier = _classifier(model)
        with features_seen(classifier) as seen:
            logits = model(images)
        if not context.own:
            return {PLAIN: logits}
        prototypes, known = _table(context, classifier.weight)
        distances = torch.cdist(seen.pop(), prototypes, compute_mode="donot_use_mm_for_euclid_dist").square()
        nearness = -distances / prototypes.shape[1]
        # Before there are any, no class is nearer than another.
        nearness = torch.where(known.any(), nearness.masked_fill(~known, -torch.inf), torch.zeros_like(nearness))
        return {PLAIN: logits, PROTOTYPES: nearness}


def _classifier(model: nn.Module) -> nn.Linear:
    return classifier_of(model, "strategy=fedproto")[1]


def _table(context: ClientContext, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the prototypes that were sent, (classes, features), and which there are, (classes,)."""
    record = context.sent.array_records.get(PROTOTYPES, ArrayRecord())
    table, known = torch.zeros_like(weight), torch.zeros(len(weight), dtype=torch.bool, device=weight.device)
    for name, prototype in to_tensors(record).items():
        table[int(name)] = prototype.to(weight)
        known[int(name)] = True
    return table, known
