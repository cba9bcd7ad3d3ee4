"""``norm=evonorm_b0`` and ``norm=evonorm_s0``: EvoNorm (Liu et al. 2020, arXiv 2004.02967), norm and activation in one.

The layers are timm's. They replace a BatchNorm together with the ReLU that follows it.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from timm.layers.evo_norm import EvoNorm2dB0, EvoNorm2dS0
from torch import nn
from torch.nn.modules.batchnorm import BatchNorm1d, _BatchNorm

from fedsim.errors import UserError
from fedsim.norms.replace import channels_of, check_groups

EVONORMS: tuple[type[nn.Module], ...] = (EvoNorm2dB0, EvoNorm2dS0)


class OnePixel(nn.Module):
    """Lets a layer for (N, C, H, W) take the (N, C) of a linear layer, as images of one pixel."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(input[:, :, None, None])
        return output[:, :, 0, 0]


def use_evonorm_b0(model: nn.Module, eps: float = 1e-5) -> nn.Module:
    """EvoNorm-B0: divides by the batch's deviation or the image's own, whichever is larger; it has running
    statistics."""
    return _replace_with_relu(model, "evonorm_b0", lambda channels: EvoNorm2dB0(channels, eps=eps))


def use_evonorm_s0(model: nn.Module, groups: int = 32, eps: float = 1e-5) -> nn.Module:
    """EvoNorm-S0: a Swish divided by the deviation of a group of channels; every image is normalized by itself.

    Errors: ``UserError`` if ``groups`` does not divide the channels of a layer.
    """

    def make(channels: int) -> nn.Module:
        check_groups(groups, channels)
        return EvoNorm2dS0(channels, groups=groups, eps=eps)

    return _replace_with_relu(model, "evonorm_s0", make)


def _replace_with_relu(model: nn.Module, name: str, make: Callable[[int], nn.Module]) -> nn.Module:
    """Errors: ``UserError`` if a BatchNorm is not followed by a ReLU in the same ``nn.Sequential``."""
    replaced = 0
    for parent in model.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        for (place, layer), (after, activation) in pairwise(list(parent._modules.items())):
            if isinstance(layer, _BatchNorm) and isinstance(activation, nn.ReLU):
                evonorm = make(channels_of(layer))
                setattr(parent, place, OnePixel(evonorm) if isinstance(layer, BatchNorm1d) else evonorm)
                setattr(parent, after, nn.Identity())
                replaced += 1
    left = [path for path, layer in model.named_modules() if isinstance(layer, _BatchNorm)]
    if left or not replaced:
        where = f"{left[0]} is not" if left else "there is none"
        raise UserError(f"norm={name} replaces each BatchNorm and the ReLU after it, and {where}: choose another norm.")
    return model
