"""FedProx (Li et al., MLSys 2020, arXiv 1812.06127): local training is held near the model that it starts from."""

import math

import torch
from torch import nn

from clients.local_sgd import LocalSGD
from fedsim.core.errors import UserError
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining

START = "start"


class FedProx(LocalSGD):
    r"""Adds :math:`\frac{\mu}{2} \lVert w - w_t \rVert^2` to the loss (Eq. 2), also to the one that is reported.

    The sum is over the parameters that are trained, and :math:`w_t` is the model as the client starts the round with
    it, its personal part included. ``mu=0`` is plain local SGD. Clients that do less work than others, the paper's
    other half, are not simulated.
    """

    def __init__(self, training: LocalTraining, mu: float) -> None:
        super().__init__(training)
        if not 0 <= mu < math.inf:
            raise UserError(f"strategy.mu={mu} is not possible: choose a number of at least 0.")
        self.mu = mu

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Remember the parameters of the start."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        context.scratch[START] = [(parameter, parameter.detach().clone()) for parameter in trained]

    def loss(
        self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
    ) -> torch.Tensor:
        """Return the loss with the proximal term."""
        distance = torch.stack([(now - start).square().sum() for now, start in context.scratch[START]]).sum()
        return super().loss(model, logits, labels, context) + self.mu / 2 * distance
