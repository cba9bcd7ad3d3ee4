"""``attention=ela``: efficient local attention (Xu & Wan 2024, arXiv 2403.01123)."""

import torch
from torch import nn

from fedsim.attention.place import place_attention
from fedsim.core.errors import UserError


class EfficientLocalAttention(nn.Module):
    r"""Weights each row and each column of each channel by its neighbourhood.

    .. math:: y_{c,i,j} = x_{c,i,j} \cdot \sigma(\mathrm{GN}(F(\bar x^h)))_{c,i} \cdot
        \sigma(\mathrm{GN}(F(\bar x^w)))_{c,j}

    with the means :math:`\bar x^h` over each row and :math:`\bar x^w` over each column, and one convolution F without
    bias and one GroupNorm, both one-dimensional and used in both directions. Takes and returns (N, C, H, W).

    The paper's four sizes are ``kernel_size`` 5 or 7 with ``channels_per_group`` 1 (T, B) or 8 (S, L) and
    ``norm_groups`` 16 (T: 32), as in public implementations; code of the authors was not found.

    Raises:
        UserError: If ``kernel_size`` is not odd and positive, or groups do not divide the channels.
    """

    def __init__(self, channels: int, kernel_size: int = 7, channels_per_group: int = 1, norm_groups: int = 16) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(f"attention.kernel_size={kernel_size} is not possible: choose an odd whole number above 0.")
        for key, value in (("channels_per_group", channels_per_group), ("norm_groups", norm_groups)):
            if value < 1 or channels % value:
                raise UserError(
                    f"attention.{key}={value} does not divide the {channels} channels of a layer of this model: "
                    f"choose a divisor of {channels}."
                )
        groups = channels // channels_per_group
        self.conv = nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)
        self.norm = nn.GroupNorm(norm_groups, channels)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows, columns = (torch.sigmoid(self.norm(self.conv(input.mean(axis)))) for axis in (3, 2))
        return input * rows[:, :, :, None] * columns[:, :, None, :]


def use_ela(model: nn.Module, kernel_size: int = 7, channels_per_group: int = 1, norm_groups: int = 16) -> nn.Module:
    """Insert ``EfficientLocalAttention`` layers at the places of ``place_attention``.

    Their GroupNorm is part of the paper's layer and independent of ``norm=``: a network with ``norm=none`` or ``sws``
    then has normalization layers, which ``strategy=fedwon`` refuses and ``train_only=norm`` trains.

    Raises:
        UserError: As ``place_attention`` and ``EfficientLocalAttention``.
    """

    def make(channels: int) -> nn.Module:
        return EfficientLocalAttention(channels, kernel_size, channels_per_group, norm_groups)

    return place_attention(model, "ela", make)
