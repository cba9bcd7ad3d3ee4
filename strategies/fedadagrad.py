"""FedAdagrad (Reddi et al., ICLR 2021, arXiv 2003.00295): FedAdam with another second moment."""

import torch
from torch import nn

from fedsim.methods.training import ServerTraining

from .fedadam import FedAdam


class FedAdagrad(FedAdam):
    r"""Takes :math:`v \leftarrow v + \Delta^2`, which never falls; :math:`\beta_1` is 0 by default, as in the paper."""

    def __init__(
        self,
        model: nn.Module,
        training: ServerTraining | None = None,
        *,
        server_lr: float = 0.1,
        beta_1: float = 0.0,
        tau: float = 0.001,
    ) -> None:
        super().__init__(model, training, server_lr=server_lr, beta_1=beta_1, tau=tau)

    def second_moment(self, second: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        """Return Adagrad's second moment."""
        return second + square
