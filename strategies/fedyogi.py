"""FedYogi (Reddi et al., ICLR 2021, arXiv 2003.00295): FedAdam with another second moment."""

import torch

from .fedadam import FedAdam


class FedYogi(FedAdam):
    r"""Takes :math:`v \leftarrow v - (1 - \beta_2) \Delta^2 \, \mathrm{sign}(v - \Delta^2)`, which falls slowly."""

    def second_moment(self, second: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        """Return Yogi's second moment."""
        return second - (1 - self.beta_2) * square * torch.sign(second - square)
