"""``norm=bcn``: Batch-Channel Normalization (Qiao et al. 2019, arXiv 1903.10520, section 4)."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.norms.replace import channels_of, check_groups, replace_batch_norm


class ChannelNorm(nn.Module):
    r"""Normalizes groups of channels of each image, with one scale and one shift for each group.

    .. math:: y_g = \gamma_g \, (x_g - \mu_g) / \sqrt{\sigma_g^2 + \epsilon} + \beta_g

    with mean and biased variance over the channels and pixels of group g: GroupNorm but for the number of scales and
    shifts. Takes (N, C, ...) with C divisible by ``groups``.
    """

    def __init__(self, groups: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(groups))
        self.bias = nn.Parameter(torch.zeros(groups))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        per_group = input.shape[1] // self.groups
        weight, bias = (each.repeat_interleave(per_group) for each in (self.weight, self.bias))
        return F.group_norm(input, self.groups, weight, bias, self.eps)

    def extra_repr(self) -> str:
        return f"groups={self.groups}, eps={self.eps}"


def use_batch_channel_norm(model: nn.Module, groups: int = 32) -> nn.Module:
    """Puts a ``ChannelNorm`` behind every BatchNorm, which stays as it is.

    The mode for micro-batches, which normalizes by estimated statistics in training too, is not part of it.

    Errors: ``UserError`` if ``groups`` does not divide the channels of a layer.
    """

    def make(layer: nn.Module) -> nn.Module:
        channels = channels_of(layer)
        check_groups(groups, channels)
        assert isinstance(layer, _BatchNorm)
        return nn.Sequential(layer, ChannelNorm(groups))

    return replace_batch_norm(model, make)
