"""``norm=in``: Instance Normalization (Ulyanov et al. 2016, arXiv 1607.08022) in the place of BatchNorm."""

from torch import nn
from torch.nn import BatchNorm1d

from fedsim.norms.replace import channels_of, replace_batch_norm


def use_instance_norm(model: nn.Module) -> nn.Module:
    """Every channel of every image is normalized over its pixels, with a scale and a shift for each channel.

    A linear layer gives one number per channel, which has no deviation, so BatchNorm1d is left out.
    """

    def make(layer: nn.Module) -> nn.Module:
        if isinstance(layer, BatchNorm1d):
            return nn.Identity()
        return nn.InstanceNorm2d(channels_of(layer), affine=True)

    return replace_batch_norm(model, "in", make)
