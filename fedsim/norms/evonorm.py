"""``norm=evonorm_b0`` and ``norm=evonorm_s0``: EvoNorm (Liu et al. 2020, arXiv 2004.02967), norm and activation in one.

The layers are timm's. They replace a BatchNorm together with the ReLU that follows it.
"""

from timm.layers.evo_norm import EvoNorm2dB0, EvoNorm2dS0
from torch import nn
from torch.nn.modules.batchnorm import BatchNorm1d

from fedsim.norms.options import check_groups, check_positive
from fedsim.norms.replace import OnePixel, channels_of, replace_with_relu

EVONORMS: tuple[type[nn.Module], ...] = (EvoNorm2dB0, EvoNorm2dS0)


def use_evonorm_b0(model: nn.Module, eps: float = 1e-5) -> nn.Module:
    """EvoNorm-B0: divides by the batch's deviation or the image's own, whichever is larger; it has running
    statistics."""
    check_positive("eps", eps)
    return replace_with_relu(
        model, "evonorm_b0", lambda layer: _taking(layer, EvoNorm2dB0(channels_of(layer), eps=eps))
    )


def use_evonorm_s0(model: nn.Module, groups: int = 32, eps: float = 1e-5) -> nn.Module:
    """EvoNorm-S0: a Swish divided by the deviation of a group of channels; every image is normalized by itself.

    Errors: ``UserError`` if ``groups`` does not divide the channels of a layer.
    """

    check_positive("eps", eps)

    def make(layer: nn.Module) -> nn.Module:
        check_groups(groups, layer)
        return _taking(layer, EvoNorm2dS0(channels_of(layer), groups=groups, eps=eps))

    return replace_with_relu(model, "evonorm_s0", make)


def _taking(layer: nn.Module, evonorm: nn.Module) -> nn.Module:
    """The EvoNorm for what ``layer`` takes."""
    return OnePixel(evonorm) if isinstance(layer, BatchNorm1d) else evonorm
