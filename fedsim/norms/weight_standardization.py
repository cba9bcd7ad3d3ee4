"""``norm=ws`` and ``norm=ws_gn``: Weight Standardization (Qiao et al. 2019, arXiv 1903.10520), alone and with
GroupNorm."""

from typing import Any

import torch
from torch import nn

from fedsim.norms.group import group_norm_like
from fedsim.norms.none import remove_norm
from fedsim.norms.options import check_fan_in, check_positive
from fedsim.norms.replace import copy_of, replace_batch_norm, replace_layers


class WSConv2d(nn.Conv2d):
    r"""A convolution whose weights have mean 0 and deviation 1 in each output channel before each use.

    .. math:: \hat W_i = (W_i - \mu_i) / \sqrt{\sigma_i^2 + \epsilon}

    with the unbiased variance over the fan-in, as in the authors' code. Neither scaled by the fan-in nor by a gain, so
    what follows is meant to normalize; ``ScaledWSConv2d`` does without. Shapes are those of ``nn.Conv2d``.
    """

    @classmethod
    def like(cls, conv: nn.Conv2d, eps: float = 1e-5) -> "WSConv2d":
        """The standardized convolution of the same shape and the same initial weights, with a bias if ``conv`` has
        one."""
        return copy_of(conv, cls, bias=conv.bias is not None, eps=eps)

    def __init__(self, *args: Any, eps: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eps = eps

    def standardized_weight(self) -> torch.Tensor:
        raw = self.weight  # read once, since a reparametrized weight is computed whenever it is read
        variance, mean = torch.var_mean(raw, dim=(1, 2, 3), correction=1, keepdim=True)
        weight: torch.Tensor = (raw - mean) * torch.rsqrt(variance + self.eps)
        return weight

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self._conv_forward(input, self.standardized_weight(), self.bias)
        return output

    def extra_repr(self) -> str:
        return f"{nn.Conv2d.extra_repr(self)}, eps={self.eps}"


def use_ws(model: nn.Module, eps: float = 1e-5) -> nn.Module:
    """Removes every BatchNorm and standardizes every convolution."""
    check_positive("eps", eps)
    return _standardize(remove_norm(model), "ws", eps)


def use_ws_group_norm(model: nn.Module, groups: int = 32, eps: float = 1e-5) -> nn.Module:
    """Standardizes every convolution and replaces every BatchNorm by GroupNorm, as BiT does (Kolesnikov et al.
    2020)."""
    check_positive("eps", eps)
    with_groups = replace_batch_norm(model, "ws_gn", lambda layer: group_norm_like(layer, groups))
    return _standardize(with_groups, "ws_gn", eps)


def _standardize(model: nn.Module, norm: str, eps: float) -> nn.Module:
    def make(layer: nn.Module) -> nn.Module:
        assert isinstance(layer, nn.Conv2d)
        check_fan_in(norm, layer)
        return layer if isinstance(layer, WSConv2d) else WSConv2d.like(layer, eps)

    return replace_layers(model, (nn.Conv2d,), make)
