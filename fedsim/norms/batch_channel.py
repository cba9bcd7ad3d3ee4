"""``norm=bcn``: Batch-Channel Normalization (Qiao et al. 2019, arXiv 1903.10520, section 4, and 1911.09738)."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.core.errors import UserError
from fedsim.norms.groups import groups_in
from fedsim.norms.replace import fitted, hold, keep_affine, replace_batch_norm
from fedsim.norms.shapes import all_but_channels, per_channel


class ChannelNorm(nn.Module):
    r"""Normalizes groups of channels of each image, with one scale and one shift for each group.

    .. math:: y_g = \gamma_g \, (x_g - \mu_g) / \sqrt{\sigma_g^2 + \epsilon} + \beta_g

    with mean and biased variance over the channels and pixels of group g: GroupNorm with one scale and shift per group
    instead of per channel. Takes (N, C, ...) with C divisible by ``groups``.
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


class EstimatedBatchNorm(nn.Module):
    r"""BatchNorm that normalizes by its running statistics also in training, so that a batch may be a single image.

    .. math:: y = \gamma \, (x - \bar\mu) / \sqrt{\bar\sigma^2 + \epsilon} + \beta

    In training each batch first updates the running statistics, by the ``moving_speed`` s:

    .. math:: \bar\sigma^2 \leftarrow (1 - s) \, \bar\sigma^2 + s \, \mathrm{mean}((x - \bar\mu)^2), \quad
        \bar\mu \leftarrow (1 - s) \, \bar\mu + s \, \mathrm{mean}(x)

    with means over the batch and its pixels, and the squared deviation from the previous :math:`\bar\mu`. No gradient
    flows through the statistics. Takes (N, C, ...). It is not a subclass of ``_BatchNorm``, since operations on those,
    such as normalization by a batch's statistics, do not apply to this layer; with ``norm.policy`` its statistics can
    be shared or local.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int, moving_speed: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.moving_speed, self.eps = moving_speed, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if self.training:
            self._move(input)
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        centred = input - per_channel(self.running_mean, input)
        return centred * per_channel(scale, input) + per_channel(self.bias, input)

    @torch.no_grad()
    def _move(self, input: torch.Tensor) -> None:
        over = all_but_channels(input)
        spread = (input - per_channel(self.running_mean, input)).square().mean(over)
        self.running_var.lerp_(spread, self.moving_speed)
        self.running_mean.lerp_(input.mean(over), self.moving_speed)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, moving_speed={self.moving_speed}, eps={self.eps}"


def use_batch_channel_norm(
    model: nn.Module,
    groups: int | None = None,
    channels_per_group: int | None = None,
    estimated: bool = False,
    moving_speed: float | None = None,
) -> nn.Module:
    """Insert a ``ChannelNorm`` after every BatchNorm. (The authors use 32 groups.)

    The BatchNorm does not change, or with ``estimated`` becomes an ``EstimatedBatchNorm``, the authors' mode for
    micro-batches. In their code the moving speed is set by a schedule that the code does not include; here it is
    constant, by default the momentum of the BatchNorm.

    Raises:
        UserError: As ``groups_in``, if the network has no BatchNorm, or if the speed is not in (0, 1], or given without
            ``estimated``.
    """
    if moving_speed is not None and not 0 < moving_speed <= 1:
        raise UserError(f"norm.moving_speed={moving_speed} is not possible: choose a number above 0, 1 at most.")
    if moving_speed is not None and not estimated:
        raise UserError(
            f"norm.moving_speed={moving_speed} moves the statistics of norm.estimated=true, and without it nothing: "
            "choose norm.estimated=true, or leave norm.moving_speed out."
        )

    def make(layer: nn.Module) -> nn.Module:
        number = groups_in(layer, groups, channels_per_group)
        assert isinstance(layer, _BatchNorm)
        batch: nn.Module = layer
        if estimated:
            speed = next((each for each in (moving_speed, layer.momentum) if each is not None), 0.1)
            batch = keep_affine(layer, EstimatedBatchNorm(layer.num_features, speed, layer.eps))
        channel = ChannelNorm(number, layer.eps)
        fitted(layer, channel)
        _hand_on(batch, channel)
        return nn.Sequential(batch, channel)

    return replace_batch_norm(model, "bcn", make)


@torch.no_grad()
def _hand_on(batch: nn.Module, channel: ChannelNorm) -> None:
    """Move the BatchNorm's initial scales and shifts to the ``ChannelNorm``, if they are equal within each group.

    Otherwise an initial scale of zero in the BatchNorm would be normalized away by the layer after it. If the BatchNorm
    has no affine parameters, the ``ChannelNorm`` gets none, either.
    """
    for name, neutral in (("weight", 1.0), ("bias", 0.0)):
        own, last = batch._parameters.get(name), channel._parameters[name]
        assert last is not None
        if own is None:
            hold(channel, name)
            continue
        by_group = own.unflatten(0, (channel.groups, -1))
        if (by_group == by_group[:, :1]).all():
            last.copy_(by_group[:, 0])
            own.fill_(neutral)
