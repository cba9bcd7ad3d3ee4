"""``norm=gn``: Group Normalization (Wu & He 2018, arXiv 1803.08494) in the place of BatchNorm."""

from torch import nn

from fedsim.norms.replace import channels_of, check_groups, replace_batch_norm


def use_group_norm(model: nn.Module, groups: int = 32) -> nn.Module:
    """Replaces every BatchNorm of C channels by ``GroupNorm(groups, C)``, which also takes the (N, C) of a linear
    layer.

    Errors: ``UserError`` if ``groups`` does not divide the channels of a layer.
    """

    def make(layer: nn.Module) -> nn.Module:
        channels = channels_of(layer)
        check_groups(groups, channels)
        return nn.GroupNorm(groups, channels)

    return replace_batch_norm(model, make)
