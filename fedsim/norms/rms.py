"""``norm=rms``: Root Mean Square Normalization (Zhang & Sennrich 2019, arXiv 1910.07467) in place of BatchNorm."""

import torch
from torch import nn

from fedsim.norms.checks import check_positive
from fedsim.norms.replace import channels_of, eps_of, keep_affine, replace_batch_norm
from fedsim.norms.shapes import per_channel


class ChannelRMSNorm(nn.Module):
    r"""Divides every image by the root mean square of all its channels and pixels.

    .. math:: y_c = \gamma_c \, x_c / \sqrt{\mathrm{mean}(x^2) + \epsilon}

    No mean is subtracted and there is no shift. Takes (N, C, H, W) of any size, or (N, C), where it is
    ``nn.RMSNorm(C)``; the scale has one entry for each channel.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        mean_square = input.square().mean(dim=tuple(range(1, input.dim())), keepdim=True)
        normalized: torch.Tensor = input * torch.rsqrt(mean_square + self.eps) * per_channel(self.weight, input)
        return normalized

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


def use_rms_norm(model: nn.Module, eps: float | None = None) -> nn.Module:
    """Replace every BatchNorm of C channels by ``ChannelRMSNorm(C)``, by default with the ``eps`` of the BatchNorm.

    Raises:
        UserError: If the network has no BatchNorm, or ``eps`` is not above 0.
    """
    check_positive("eps", eps)

    def make(layer: nn.Module) -> nn.Module:
        return keep_affine(layer, ChannelRMSNorm(channels_of(layer), eps_of(layer, eps)))

    return replace_batch_norm(model, "rms", make)
