"""FedBN (Li et al., ICLR 2021, arXiv 2102.07623): every client keeps its own BatchNorm layers."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.core.errors import UserError
from fedsim.methods.training import ServerTraining

from .fedavg import FedAvg


class FedBN(FedAvg):
    """FedAvg over everything but BatchNorm.

    The affine parameters, running statistics and counters of all BatchNorm1d/2d/3d layers, found by type, are sent in
    neither direction. A client starts with the initial values of its model and stores its own in ``Context.state``.

    Weights are ``uniform`` by default, as in the official code (``client_weights = [1/K] * K``).

    Raises:
        UserError: If the model has no BatchNorm, because FedBN would then silently be FedAvg.
    """

    personal_modules = (_BatchNorm,)
    default_weighting = "uniform"

    def __init__(self, model: nn.Module, training: ServerTraining | None = None) -> None:
        super().__init__(model, training)
        if not self.personal:
            raise UserError(
                "strategy=fedbn needs BatchNorm layers to keep on the clients, and this model has none: "
                "choose norm=bn and a model with BatchNorm, such as model=cnn_small, or another strategy "
                "(norm.policy=fedbn keeps other layers with running statistics)."
            )
