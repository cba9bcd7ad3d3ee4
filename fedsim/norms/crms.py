"""``norm=crms``: Compressed Root Mean Square Normalization (Jiang et al. 2023, arXiv 2305.14858)."""

import torch
from torch import nn

from fedsim.norms.checks import check_positive
from fedsim.norms.recentring import compressed_stream
from fedsim.norms.replace import channels_of, eps_of, keep_affine
from fedsim.norms.shapes import per_channel
from fedsim.norms.tokens import replace_norms


class CRMSNorm(nn.Module):
    r"""Layer Normalization of C + 1 channels that sum to zero, of which only the first C are stored.

    .. math:: y_c = \gamma_c \, x_c \Big/ \sqrt{\frac{\sum_c x_c^2 + (\sum_c x_c)^2}{C + 1} + \epsilon}

    The channel that is not stored is minus the sum of the others, so that the mean of all of them is zero and their
    mean square is their variance. On the (N, C) of a linear layer it is the paper's layer with a scale.

    In the paper the zero sums hold by construction: it removes the mean from every layer that writes into a
    transformer's residual stream, and then stores one value less of each token (``fedsim.norms.recentring``). A
    convolutional network has no such stream; since any C values can be completed by another one, the layer uses its
    input unchanged. On (N, C, H, W) each pixel is completed, and the mean square is
    over all C + 1 channels and all pixels of the image, as in ``ChannelRMSNorm``: this is ``norm=ln`` of the completed
    image.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        left_out = input.sum(dim=1, keepdim=True)
        squares = input.square().sum(dim=1, keepdim=True) + left_out.square()
        mean_square = squares.mean(dim=tuple(range(1, input.dim())), keepdim=True) / (len(self.weight) + 1)
        normalized: torch.Tensor = input * torch.rsqrt(mean_square + self.eps) * per_channel(self.weight, input)
        return normalized

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"


def use_crms_norm(model: nn.Module, eps: float | None = None, recentre: bool = False) -> nn.Module:
    """Replace every BatchNorm or LayerNorm of C channels by ``CRMSNorm(C)``, by default with the ``eps`` of the layer.

    With ``recentre`` a transformer of width C becomes one of width C - 1 that computes the same
    (``fedsim.norms.recentring``).

    Raises:
        UserError: If the network has neither, ``eps`` is not above 0, or as ``compressed_stream``.
    """
    check_positive("eps", eps)
    if recentre:
        compressed_stream(model, "crms")

    def make(layer: nn.Module) -> nn.Module:
        return keep_affine(layer, CRMSNorm(channels_of(layer), eps_of(layer, eps)))

    return replace_norms(model, "crms", make)
