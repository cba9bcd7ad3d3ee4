"""``attention=scse``: concurrent spatial and channel squeeze and excitation (Roy et al. 2018, arXiv 1803.02579)."""

import torch
from torch import nn

from fedsim.attention.place import place_attention
from fedsim.attention.se import SqueezeExcitation
from fedsim.core.errors import UserError

COMBINATIONS = ("add", "max")


class SpatialChannelSE(nn.Module):
    r"""A channel attention and a spatial attention in parallel.

    .. math:: y = x \cdot z \;+\; x \cdot \sigma(w^\top x + b)

    with the weight :math:`z` of each channel from a ``SqueezeExcitation`` and one weight for each pixel from a 1x1
    convolution to a single channel. ``combine="max"`` is the maximum of the two terms instead of their sum, as in the
    authors' code. Takes and returns (N, C, H, W).

    Raises:
        UserError: As ``SqueezeExcitation``, and if ``combine`` is unknown.
    """

    def __init__(self, channels: int, reduction: int = 2, combine: str = "add") -> None:
        super().__init__()
        if combine not in COMBINATIONS:
            raise UserError(f"attention.combine={combine} is not known: choose {' or '.join(COMBINATIONS)}.")
        self.channel = SqueezeExcitation(channels, reduction)
        self.spatial = nn.Conv2d(channels, 1, 1)
        self.combine = combine

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        by_channel = self.channel(input)
        by_pixel = input * torch.sigmoid(self.spatial(input))
        output: torch.Tensor = by_channel + by_pixel if self.combine == "add" else torch.maximum(by_channel, by_pixel)
        return output

    def extra_repr(self) -> str:
        return f"combine={self.combine}"


def use_scse(model: nn.Module, reduction: int = 2, combine: str = "add") -> nn.Module:
    """Insert ``SpatialChannelSE`` layers at the places of ``place_attention``.

    Raises:
        UserError: As ``place_attention`` and ``SpatialChannelSE``.
    """
    return place_attention(model, "scse", lambda channels: SpatialChannelSE(channels, reduction, combine))
