"""``norm=in``: Instance Normalization (Ulyanov et al. 2016, arXiv 1607.08022) in the place of BatchNorm."""

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
    """Every channel of every image is normalized over its pixels, with a scale and a shift for each channel.

    A linear layer gives one number per channel, which has no deviation, so BatchNorm1d is left out.

    Raises:
        UserError: If the network has no BatchNorm.
    """

    def make(layer: nn.Module) -> nn.Module:
        if isinstance(layer, BatchNorm1d):
            return of_features_only("in", nn.Identity())
        kind = nn.InstanceNorm3d if isinstance(layer, BatchNorm3d) else nn.InstanceNorm2d
        return keep_affine(layer, kind(channels_of(layer), eps=eps_of(layer), affine=affine_of(layer)))

    return replace_batch_norm(model, "in", make)
