"""FedSAM's client (Caldarola et al., ECCV 2022; Qu et al., ICML 2022): sharpness-aware minimization of the loss."""

import math

import torch
from torch import nn

from clients.local_sgd import LocalSGD
from fedsim.core.errors import UserError
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.training import LocalTraining
from fedsim.models.restored import buffers_restored

FLOOR = 1e-12
"""Keeps the division by a gradient's length possible."""


class FedSAM(LocalSGD):
    r"""Takes the gradient where the loss is highest nearby (SAM: Foret et al., ICLR 2021, arXiv 2010.01412):

    .. math:: \epsilon = \rho \, \frac{T^2 g}{\lVert T g \rVert}, \qquad y \leftarrow y - \eta \, \nabla L(y + \epsilon)

    with T = 1, or, with ``eta`` above 0, :math:`T = \mathrm{diag}(|y| + \eta)`, which is ASAM (Kwon et al., ICML 2021,
    arXiv 2102.11600), as Caldarola et al. use it. Running statistics are those of the first of the two passes.
    """

    def __init__(self, training: LocalTraining, rho: float, eta: float) -> None:
        super().__init__(training)
        if not 0 < rho < math.inf:
            raise UserError(f"strategy.rho={rho} is not possible: choose a number above 0.")
        if not 0 <= eta < math.inf:
            raise UserError(f"strategy.eta={eta} is not possible: choose a number of at least 0.")
        self.rho, self.eta = rho, eta

    def before_step(self, model: nn.Module, context: TrainingContext) -> None:
        """Replace the gradients by those at the perturbed weights."""
        trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
        scales = [parameter.detach().abs() + self.eta if self.eta else None for parameter in trained]
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        scaled = [g if scale is None else scale * g for g, scale in zip(gradients, scales, strict=True)]
        length = torch.stack([each.norm() for each in scaled]).norm() + FLOOR
        moves = [
            (each if scale is None else scale * each) * (self.rho / length)
            for each, scale in zip(scaled, scales, strict=True)
        ]
        assert context.batch is not None
        images, labels = context.batch
        with torch.no_grad():
            for parameter, move in zip(trained, moves, strict=True):
                parameter.add_(move)
                parameter.grad = None
        with buffers_restored(model):
            self.loss(model, model(images), labels, context).backward()
        with torch.no_grad():
            for parameter, move in zip(trained, moves, strict=True):
                parameter.sub_(move)
