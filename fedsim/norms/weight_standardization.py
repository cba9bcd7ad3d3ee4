"""``norm=ws`` and ``norm=ws_gn``: Weight Standardization (Qiao et al. 2019, arXiv 1903.10520), without and with
GroupNorm."""

from typing import Any, Self

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from fedsim.norms.checks import check_positive
from fedsim.norms.convolutions import StandardizedConvolution, standardize_convolutions
from fedsim.norms.group import group_norm_like
from fedsim.norms.none import remove_batch_norm
from fedsim.norms.replace import refuse_layer_norm, replace_batch_norm


class WSConvolution(StandardizedConvolution):
    r"""A convolution whose weights have mean 0 and deviation :math:`\rho` in each output channel before each use.

    .. math:: \hat W_i = \rho \, (W_i - \mu_i) / \sqrt{\sigma_i^2 + \epsilon}

    with the unbiased variance over the fan-in, as in the authors' code, and :math:`\rho = 1`, which is smaller in
    FedWS. The weights are scaled neither by the fan-in nor by a gain, so that a normalization layer should follow;
    ``ScaledWSConvolution`` needs none. Shapes are those of torch's class.
    """

    @classmethod
    def like(cls, conv: _ConvNd, eps: float = 1e-5, rho: float = 1.0) -> Self:
        """Return the standardized convolution with the shape and parameters of ``conv``, with a bias if it has one."""
        return cls.copy_of(conv, bias=conv.bias is not None, eps=eps, rho=rho)

    def __init__(self, *args: Any, eps: float = 1e-5, rho: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eps, self.rho = eps, rho

    def standardize(self, weight: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(weight, dim=tuple(range(1, weight.dim())), correction=1, keepdim=True)
        standardized: torch.Tensor = (weight - mean) * (self.rho * torch.rsqrt(variance + self.eps))
        return standardized

    def extra_repr(self) -> str:
        torchs = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{torchs}, eps={self.eps}, rho={self.rho:g}"


class WSConv1d(WSConvolution, nn.Conv1d):
    """``nn.Conv1d`` with the weight of ``WSConvolution``."""


class WSConv2d(WSConvolution, nn.Conv2d):
    """``nn.Conv2d`` with the weight of ``WSConvolution``."""


class WSConv3d(WSConvolution, nn.Conv3d):
    """``nn.Conv3d`` with the weight of ``WSConvolution``."""


class WSConvTranspose1d(WSConvolution, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` with the weight of ``WSConvolution``."""


class WSConvTranspose2d(WSConvolution, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with the weight of ``WSConvolution``."""


class WSConvTranspose3d(WSConvolution, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` with the weight of ``WSConvolution``."""


KINDS: dict[type[_ConvNd], type[StandardizedConvolution]] = {
    nn.Conv1d: WSConv1d,
    nn.Conv2d: WSConv2d,
    nn.Conv3d: WSConv3d,
    nn.ConvTranspose1d: WSConvTranspose1d,
    nn.ConvTranspose2d: WSConvTranspose2d,
    nn.ConvTranspose3d: WSConvTranspose3d,
}


def use_ws(model: nn.Module, eps: float = 1e-5, rho: float = 1.0) -> nn.Module:
    """Remove every BatchNorm and standardize every convolution.

    Raises:
        UserError: As ``standardize_convolutions``, ``refuse_layer_norm`` and ``remove_batch_norm``, and if ``eps`` or
            ``rho`` is not above 0.
    """
    check_positive("eps", eps)
    check_positive("rho", rho)
    refuse_layer_norm(model, "ws")
    return standardize_convolutions(remove_batch_norm(model, "ws"), "ws", KINDS, eps=eps, rho=rho)


def use_ws_group_norm(
    model: nn.Module,
    groups: int | None = None,
    channels_per_group: int | None = None,
    eps: float = 1e-5,
    rho: float = 1.0,
) -> nn.Module:
    """Standardize every convolution and replace every BatchNorm by GroupNorm (BiT, Kolesnikov et al. 2020: 32 groups).

    FedWS, the network of FedWSQ (Kim et al., ICCV 2025, arXiv 2506.23516), is ``groups=2, rho=1e-3, eps=1e-10``: behind
    a GroupNorm the scale of a weight only decides how much the GroupNorm's eps weighs. Its authors' code
    (Seongyeol-kim/FedWSQ, dfe2f8d) adds 1e-5 to the deviation, where here ``eps`` is added to the variance, so that the
    weights of a channel differ by the factor 1 + 1e-5 / deviation.

    Raises:
        UserError: As ``standardize_convolutions`` and ``use_group_norm``, and if ``eps`` or ``rho`` is not above 0.
    """
    check_positive("eps", eps)
    check_positive("rho", rho)
    with_groups = replace_batch_norm(model, "ws_gn", lambda layer: group_norm_like(layer, groups, channels_per_group))
    return standardize_convolutions(with_groups, "ws_gn", KINDS, eps=eps, rho=rho)
