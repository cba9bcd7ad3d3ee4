"""``norm=gn``: Group Normalization (Wu & He 2018, arXiv 1803.08494) in the place of BatchNorm."""

from torch import nn

from fedsim.norms.options import check_groups
from fedsim.norms.replace import channels_of, replace_batch_norm


def use_group_norm(model: nn.Module, groups: int = 32) -> nn.Module:
    """Replaces every BatchNorm of C channels by ``GroupNorm(groups, C)``, which also takes the (N, C) of a linear
    layer.

    Errors: ``UserError`` if ``groups`` does not divide the channels of a layer.
    """
    return replace_batch_norm(model, "gn", lambda layer: group_norm_like(layer, groups))


def group_norm_like(layer: nn.Module, groups: int) -> nn.GroupNorm:
    check_groups(groups, layer)
    return nn.GroupNorm(groups, channels_of(layer))
