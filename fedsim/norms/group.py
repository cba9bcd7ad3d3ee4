"""``norm=gn``: Group Normalization (Wu & He 2018, arXiv 1803.08494) in place of BatchNorm."""

from torch import nn

from fedsim.norms.groups import groups_in
from fedsim.norms.replace import affine_of, channels_of, eps_of, keep_affine, replace_batch_norm


def use_group_norm(model: nn.Module, groups: int | None = None, channels_per_group: int | None = None) -> nn.Module:
    """Replace every BatchNorm of C channels by a ``GroupNorm`` of C channels, which also takes (N, C).

    It has ``groups`` groups, or groups of ``channels_per_group`` channels (``fedsim.norms.groups``).

    Raises:
        UserError: As ``groups_in``, and if the network has no BatchNorm.
    """
    return replace_batch_norm(model, "gn", lambda layer: group_norm_like(layer, groups, channels_per_group))


def group_norm_like(layer: nn.Module, groups: int | None, channels_per_group: int | None) -> nn.Module:
    number = groups_in(layer, groups, channels_per_group)
    norm = nn.GroupNorm(number, channels_of(layer), eps=eps_of(layer), affine=affine_of(layer))
    return keep_affine(layer, norm)
