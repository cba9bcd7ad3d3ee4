"""``norm=gn``: Group Normalization (Wu & He 2018, arXiv 1803.08494) in the place of BatchNorm."""

from typing import cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.errors import UserError
from fedsim.norms.replace import replace_layers


def use_group_norm(model: nn.Module, groups: int = 32) -> nn.Module:
    """Replaces every BatchNorm of C channels by ``GroupNorm(groups, C)``, which also takes the (N, C) of a linear
    layer.

    Errors: ``UserError`` if ``groups`` does not divide the channels of a layer.
    """

    def make(layer: nn.Module) -> nn.Module:
        channels = cast(_BatchNorm, layer).num_features
        if groups < 1 or channels % groups:
            raise UserError(
                f"norm.groups={groups} does not divide the {channels} channels of a layer of this model: "
                f"choose a divisor of {channels}."
            )
        return nn.GroupNorm(groups, channels)

    return replace_layers(model, (_BatchNorm,), make)
