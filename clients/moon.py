"""MOON's client (Li, He & Song, CVPR 2021, arXiv 2103.16257): features are held near the global model's."""

import copy
import math

import torch
from flwr.app import ArrayRecord
from torch import nn
from torch.nn import functional as F

from clients.local_sgd import LocalSGD
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining
from fedsim.models.classifier import classifier_of, features_seen

PREVIOUS = "previous model"
"""The record of the client's state with its model after the last round in which it trained."""
FEATURES, OTHERS = "features", "other models"


class MOON(LocalSGD):
    r"""Adds :math:`\mu` times the contrastive loss (Eq. 3) of the features z in front of the classifier,

    .. math:: -\log \frac{\exp(\mathrm{sim}(z, z_{glob}) / \tau)}
              {\exp(\mathrm{sim}(z, z_{glob}) / \tau) + \exp(\mathrm{sim}(z, z_{prev}) / \tau)}

    where sim is the cosine, :math:`z_{glob}` are the features of the model as the round starts with it and
    :math:`z_{prev}` those of the client's own model after its last round; both models are evaluated with their running
    statistics. In a client's first round there is no such model, and no second term. The paper's projection head in
    front of the classifier is left out, so that all methods train the same network.
    """

    def __init__(self, training: LocalTraining, mu: float, temperature: float) -> None:
        super().__init__(training)
        if not 0 <= mu < math.inf:
            raise UserError(f"strategy.mu={mu} is not possible: choose a number of at least 0.")
        if not 0 < temperature < math.inf:
            raise UserError(f"strategy.temperature={temperature} is not possible: choose a number above 0.")
        self.mu, self.temperature = mu, temperature

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Copy the model of the start, and load the previous one."""
        kept = context.state.get(PREVIOUS)
        if not isinstance(kept, ArrayRecord):
            return
        start, previous = copy.deepcopy(model), copy.deepcopy(model)
        previous.load_state_dict({**model.state_dict(), **to_tensors(kept)})
        context.scratch[OTHERS] = start.eval(), previous.eval()

    def passes(self, model: nn.Module, context: TrainingContext) -> dict[str, float]:
        """Train while the features that the classifier is given are seen."""
        with features_seen(classifier_of(model, "strategy=moon")[1]) as context.scratch[FEATURES]:
            return super().passes(model, context)

    def loss(
        self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
    ) -> torch.Tensor:
        """Return the cross entropy and, from the client's second round on, the contrastive loss."""
        features = context.scratch[FEATURES].pop()
        loss = super().loss(model, logits, labels, context)
        if OTHERS not in context.scratch:
            return loss
        assert context.batch is not None
        with torch.no_grad():
            glob, previous = (_features(other, context.batch[0]) for other in context.scratch[OTHERS])
        similar = torch.stack([F.cosine_similarity(features, other) for other in (glob, previous)], dim=1)
        contrast = F.cross_entropy(similar / self.temperature, torch.zeros_like(labels))
        return loss + self.mu * contrast

    def end(self, model: nn.Module, context: TrainingContext) -> None:
        """Keep the model for the next round."""
        context.state[PREVIOUS] = to_record({name: each.clone() for name, each in model.state_dict().items()})


def _features(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with features_seen(classifier_of(model, "strategy=moon")[1]) as seen:
        model(images)
    return seen.pop()
