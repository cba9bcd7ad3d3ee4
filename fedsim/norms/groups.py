"""Division of channels into groups, for all norms with groups: ``norm.groups`` or ``norm.channels_per_group``.

GroupNorm's paper (Wu & He 2018, arXiv 1803.08494) has 32 groups, for networks of 64 to 2048 channels; with 32 channels
that would be one channel in each group, which is InstanceNorm. The paper also has groups of a fixed number of channels,
among others 16, which is the default here.
"""

from torch import nn
from torch.nn import BatchNorm1d, LayerNorm

from fedsim.core.errors import UserError
from fedsim.norms.replace import channels_of

CHANNELS_PER_GROUP = 16
GROUP_OPTIONS = ("groups", "channels_per_group")


def groups_in(layer: nn.Module, groups: int | None, channels_per_group: int | None) -> int:
    """Return the number of groups for the channels of the BatchNorm or LayerNorm ``layer``.

    It is ``groups``, or follows from groups of at least ``channels_per_group`` channels (default
    ``CHANNELS_PER_GROUP``): the size of a group is the next one that divides the number of channels; if there are fewer
    channels than that, they are one group.

    Raises:
        UserError: If both options are set, ``groups`` does not divide the channels, ``channels_per_group`` is below 1,
            or each group of a linear layer would be a single value, whose deviation is zero.
    """
    channels = channels_of(layer)
    if groups is not None and channels_per_group is not None:
        raise UserError(
            f"norm.groups={groups} and norm.channels_per_group={channels_per_group} both say what a group is: "
            "leave one of them out."
        )
    if groups is None:
        least = CHANNELS_PER_GROUP if channels_per_group is None else channels_per_group
        if least < 1:
            raise UserError(f"norm.channels_per_group={least} is not possible: choose a whole number of 1 or more.")
        said = f"norm.channels_per_group={least}"
        size = next((size for size in range(least, channels + 1) if channels % size == 0), channels)
        number, instead = channels // size, "a larger number"
    elif groups < 1 or channels % groups:
        raise UserError(
            f"norm.groups={groups} does not divide the {channels} channels of a layer of this model: "
            f"choose a divisor of {channels}, or norm.channels_per_group in its place."
        )
    else:
        said, number, instead = f"norm.groups={groups}", groups, f"a smaller divisor of {channels}"
    if isinstance(layer, BatchNorm1d | LayerNorm) and number == channels:
        raise UserError(f"{said} leaves each group a single value in a linear layer of {channels}: choose {instead}.")
    return number
