"""``norm=sws``: scaled weight standardization, the normalization-free layer of FedWon.

FedWon (Zhuang & Lyu, ICLR 2024, arXiv 2306.05879), Eq. 3; the layer goes back to NF-ResNets (Brock et al., ICLR 2021).
"""

from typing import Any, Self

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from fedsim.norms.checks import check_positive
from fedsim.norms.convolutions import StandardizedConvolution, standardize_convolutions
from fedsim.norms.none import remove_batch_norm
from fedsim.norms.replace import refuse_layer_norm

RELU_GAIN = 1.7139588594436646
"""sqrt(2 / (1 - 1/pi)), as in NFNet's code: a ReLU reduces the standard deviation of N(0, 1) by this factor."""


class ScaledWSConvolution(StandardizedConvolution):
    r"""A convolution whose weights are standardized per output channel before each use.

    .. math:: \hat W_{i,j} = g_i \, \gamma \, (W_{i,j} - \mu_i) / \sqrt{\max(N \sigma_i^2, \epsilon)}

    with :math:`\mu_i` and the biased variance :math:`\sigma_i^2` over the fan-in
    :math:`N = C_{in} / groups \cdot k_h k_w` of output channel i (with one, two or three kernel sizes), a constant
    :math:`\gamma` for the nonlinearity before the convolution and a learnable gain :math:`g` of shape (C_out, 1, ...)
    that starts at one. Shapes are those of torch's class.
    """

    gain: nn.Parameter

    @classmethod
    def like(cls, conv: _ConvNd, gamma: float = RELU_GAIN, eps: float = 1e-4) -> Self:
        """Return the standardized convolution with the shape and the parameters of ``conv``, always with a bias.

        The bias replaces BatchNorm's beta, so it starts at zero if ``conv`` has none.
        """
        return cls.copy_of(conv, bias=True, gamma=gamma, eps=eps)

    def __init__(self, *args: Any, gamma: float = RELU_GAIN, eps: float = 1e-4, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gamma, self.eps = gamma, eps
        self.gain = nn.Parameter(self.weight.new_ones(self.out_channels, *(1,) * (self.weight.dim() - 1)))

    def standardize(self, weight: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(weight, dim=tuple(range(1, weight.dim())), correction=0, keepdim=True)
        scale = torch.rsqrt(torch.clamp(variance * weight[0].numel(), min=self.eps)) * (self.gain * self.gamma)
        standardized: torch.Tensor = (weight - mean) * scale
        return standardized

    def extra_repr(self) -> str:
        torchs = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{torchs}, gamma={self.gamma:.4f}, eps={self.eps}"


class ScaledWSConv1d(ScaledWSConvolution, nn.Conv1d):
    """``nn.Conv1d`` with the weight of ``ScaledWSConvolution``."""


class ScaledWSConv2d(ScaledWSConvolution, nn.Conv2d):
    """``nn.Conv2d`` with the weight of ``ScaledWSConvolution``."""


class ScaledWSConv3d(ScaledWSConvolution, nn.Conv3d):
    """``nn.Conv3d`` with the weight of ``ScaledWSConvolution``."""


class ScaledWSConvTranspose1d(ScaledWSConvolution, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with the weight of ``ScaledWSConvolution``."""


class ScaledWSConvTranspose2d(ScaledWSConvolution, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with the weight of ``ScaledWSConvolution``."""


class ScaledWSConvTranspose3d(ScaledWSConvolution, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with the weight of ``ScaledWSConvolution``."""


KINDS: dict[type[_ConvNd], type[StandardizedConvolution]] = {
    nn.Conv1d: ScaledWSConv1d,
    nn.Conv2d: ScaledWSConv2d,
    nn.Conv3d: ScaledWSConv3d,
    nn.ConvTranspose1d: ScaledWSConvTranspose1d,
    nn.ConvTranspose2d: ScaledWSConvTranspose2d,
    nn.ConvTranspose3d: ScaledWSConvTranspose3d,
}


def use_scaled_ws(
    model: nn.Module,
    gamma: float = RELU_GAIN,
    eps: float = 1e-4,
    residual: str = "plain",
    alpha: float | None = None,
) -> nn.Module:
    """Remove every BatchNorm and standardize every convolution; linear layers do not change.

    ``gamma`` is applied in every convolution, as in Eq. 3. (It is derived for convolutions whose input is a ReLU.)
    ``residual`` and ``alpha`` are those of ``remove_norm``; FedWon's treatment of residual blocks is not published.

    Raises:
        UserError: As ``standardize_convolutions``, ``refuse_layer_norm`` and ``remove_norm``, and if an option is out
            of its range.
    """
    check_positive("gamma", gamma)
    check_positive("eps", eps)
    refuse_layer_norm(model, "sws")
    return standardize_convolutions(
        remove_batch_norm(model, "sws", residual, alpha), "sws", KINDS, gamma=gamma, eps=eps
    )
