"""FedProx (Li et al., MLSys 2020, arXiv 1812.06127): a proximal term keeps local training near its start."""

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

    The norm is over the trained parameters, and :math:`w_t` is the model with which the client starts the round,
    including its personal part. ``mu=0`` is plain local SGD. The paper's clients that do less work than others are not
    simulated.

    Raises:
        UserError: If ``mu`` is negative or not finite.
    """

    stackable = True

    def __init__(self, training: LocalTraining, mu: float) -> None:
        super().__init__(training)
        if not 0 <= mu < math.inf:
            raise UserError(f"strategy.mu={mu} is not possible: choose a number of at least 0.")
        self.mu = mu

    def begin(self, model: nn.Module, context: TrainingContext) -> None:
        """Store a copy of the parameters."""
        context.scratch[START] = {
            name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad
        }

    def loss(
        self, model: nn.Module, logits: torch.Tensor, labels: torch.Tensor, context: TrainingContext
    ) -> torch.Tensor:
        """Return the loss with the proximal term."""
        now = dict(model.named_parameters())
        moved = [now[name] - start for name, start in context.scratch[START].items()]
        distance = torch.stack([each.square().sum() for each in moved]).sum()
        return super().loss(model, logits, labels, context) + self.mu / 2 * distance
