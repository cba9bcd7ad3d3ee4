"""``attention=se``: squeeze and excitation (Hu et al. 2018, arXiv 1709.01507)."""

import torch
from torch import nn

from fedsim.attention.place import place_attention
from fedsim.core.errors import UserError


class SqueezeExcitation(nn.Module):
    r"""Weights each channel by a function of the means of all channels.

    .. math:: y_c = x_c \cdot \sigma(W_2 \, \mathrm{relu}(W_1 \bar x + b_1) + b_2)_c

    with the mean :math:`\bar x` over the pixels and C / reduction hidden channels, rounded down. Takes and returns
    (N, C, H, W). The two layers are 1x1 convolutions.

    Raises:
        UserError: If ``reduction`` is not from 1 to ``channels``.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        if not 1 <= reduction <= channels:
            raise UserError(
                f"attention.reduction={reduction} is not possible for the {channels} channels of a layer of this "
                f"model: choose a whole number from 1 to {channels}."
            )
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1)
        self.excite = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.squeeze(input.mean((2, 3), keepdim=True)))
        return input * torch.sigmoid(self.excite(hidden))


def use_se(model: nn.Module, reduction: int = 16) -> nn.Module:
    """Insert ``SqueezeExcitation`` layers at the places of ``place_attention``.

    With ``norm=sws`` this is the idea of ANFR (Siomos et al. 2024, arXiv 2410.02006), standardized weights and channel
    attention; it is not the authors' network.

    Raises:
        UserError: As ``place_attention`` and ``SqueezeExcitation``.
    """
    return place_attention(model, "se", lambda channels: SqueezeExcitation(channels, reduction))
