"""``norm=evonorm_b0`` and ``norm=evonorm_s0``: EvoNorm (Liu et al. 2020, arXiv 2004.02967), norm and activation in one.

The layers are timm's. They replace a BatchNorm together with the ReLU that follows it.
"""

from torch import nn
from torch.nn.modules.batchnorm import BatchNorm1d, BatchNorm3d, _BatchNorm

from fedsim.core.errors import UserError
from fedsim.norms.checks import check_positive
from fedsim.norms.groups import groups_in
from fedsim.norms.replace import (
    OnePixel,
    channels_of,
    eps_of,
    keep_affine,
    of_features_only,
    replace_with_relu,
)


def use_evonorm_b0(model: nn.Module, eps: float | None = None) -> nn.Module:
    """Replace BatchNorm and ReLU by EvoNorm-B0, which divides by the larger of the batch's and the image's deviation.

    It has running statistics with the momentum of the BatchNorm.

    Raises:
        UserError: As ``replace_with_relu``, and if ``eps`` is not above 0 or there is a BatchNorm3d.
    """
    check_positive("eps", eps)
    from timm.layers.evo_norm import EvoNorm2dB0  # timm takes seconds to import

    def make(layer: nn.Module) -> nn.Module:
        assert isinstance(layer, _BatchNorm)
        momentum = 0.1 if layer.momentum is None else layer.momentum
        return _like(layer, EvoNorm2dB0(channels_of(layer), momentum=momentum, eps=eps_of(layer, eps)), "evonorm_b0")

    return replace_with_relu(model, "evonorm_b0", make)


def use_evonorm_s0(
    model: nn.Module, groups: int | None = None, channels_per_group: int | None = None, eps: float | None = None
) -> nn.Module:
    """Replace BatchNorm and ReLU by EvoNorm-S0, a Swish over the deviation of a group of channels (paper: 32 groups).

    Every image is normalized by itself.

    Raises:
        UserError: As ``replace_with_relu`` and ``groups_in``, and if ``eps`` is not above 0 or there is a BatchNorm3d.
    """
    check_positive("eps", eps)
    from timm.layers.evo_norm import EvoNorm2dS0

    def make(layer: nn.Module) -> nn.Module:
        number = groups_in(layer, groups, channels_per_group)
        return _like(layer, EvoNorm2dS0(channels_of(layer), groups=number, eps=eps_of(layer, eps)), "evonorm_s0")

    return replace_with_relu(model, "evonorm_s0", make)


def _like(layer: nn.Module, evonorm: nn.Module, norm: str) -> nn.Module:
    """Return the EvoNorm adapted to the inputs of ``layer``, with its initial scale and shift.

    Raises:
        UserError: If ``layer`` is a BatchNorm3d.
    """
    if isinstance(layer, BatchNorm3d):
        raise UserError(f"norm={norm} is for images, and this network has a BatchNorm3d: choose norm=gn or norm=ln.")
    keep_affine(layer, evonorm)
    return of_features_only(norm, OnePixel(evonorm)) if isinstance(layer, BatchNorm1d) else evonorm
