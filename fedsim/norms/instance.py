"""``norm=in``: Instance Normalization (Ulyanov et al. 2016, arXiv 1607.08022) in place of BatchNorm."""

from torch import nn
from torch.nn import BatchNorm1d, BatchNorm3d

from fedsim.norms.replace import (
    affine_of,
    channels_of,
    eps_of,
    keep_affine,
    of_features_only,
    replace_batch_norm,
)


def use_instance_norm(model: nn.Module) -> nn.Module:
    """Replace every BatchNorm by InstanceNorm, which normalizes each channel of each image over its pixels.

    It has a scale and a shift for each channel if the BatchNorm has them. A linear layer has one number per channel,
    whose deviation is zero, so BatchNorm1d is removed.

    Raises:
        UserError: If the network has no BatchNorm.
    """

    def make(layer: nn.Module) -> nn.Module:
        if isinstance(layer, BatchNorm1d):
            return of_features_only("in", nn.Identity())
        kind = nn.InstanceNorm3d if isinstance(layer, BatchNorm3d) else nn.InstanceNorm2d
        return keep_affine(layer, kind(channels_of(layer), eps=eps_of(layer), affine=affine_of(layer)))

    return replace_batch_norm(model, "in", make)
