"""``norm=rms``: Root Mean Square Normalization (Zhang & Sennrich 2019, arXiv 1910.07467)."""

import torch
from torch import nn

from fedsim.norms.checks import check_positive
from fedsim.norms.recentring import zero_mean_stream
from fedsim.norms.replace import channels_of, eps_of, keep_activation, keep_affine
from fedsim.norms.shapes import per_channel
from fedsim.norms.tokens import of_images, replace_norms, tokens_like


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


def use_rms_norm(model: nn.Module, eps: float | None = None, recentre: bool = False) -> nn.Module:
    """Replace every BatchNorm of C channels by ``ChannelRMSNorm(C)``, every LayerNorm of C by ``nn.RMSNorm(C)``.

    The ``eps`` is by default that of the replaced layer. With ``recentre`` a transformer computes what it did with
    LayerNorm, until it is trained (``fedsim.norms.recentring``).

    Raises:
        UserError: If the network has neither, ``eps`` is not above 0, or as ``zero_mean_stream``.
    """
    check_positive("eps", eps)
    if recentre:
        zero_mean_stream(model, "rms")

    def make(layer: nn.Module) -> nn.Module:
        return keep_affine(layer, ChannelRMSNorm(channels_of(layer), eps_of(layer, eps)))

    def of_tokens(layer: nn.Module) -> nn.Module:
        norm = keep_affine(layer, nn.RMSNorm(channels_of(layer), eps=eps_of(layer, eps)))
        return keep_activation(layer, tokens_like(layer, norm) if isinstance(layer, of_images()) else norm)

    return replace_norms(model, "rms", make, of_tokens)
