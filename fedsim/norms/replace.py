"""Replacing layers of a model by type, wherever they stand in it."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedsim.errors import UserError

Conv = TypeVar("Conv", bound=nn.Conv2d)

TORCH_NORM_LAYERS: tuple[type[nn.Module], ...] = (
    *(_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.CrossMapLRN2d),
)
"""Every layer of torch that normalizes activations."""


def replace_layers(
    model: nn.Module, types: tuple[type[nn.Module], ...], make: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    """Puts ``make(layer)`` in the place of each layer of the given types, in place, and returns the model.

    A layer that stands in the model twice is replaced by one that does.
    """
    if isinstance(model, types):
        return make(model)
    made: dict[nn.Module, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children leaves a second name of a layer out
            if isinstance(child, types):
                if child not in made:
                    made[child] = make(child)
                setattr(parent, name, made[child])
    return model


def replace_batch_norm(model: nn.Module, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Puts ``make(layer)`` in the place of each BatchNorm of any dimension."""
    return replace_layers(model, (_BatchNorm,), make)


def channels_of(layer: nn.Module) -> int:
    assert isinstance(layer, _BatchNorm)
    return layer.num_features


def check_groups(groups: int, channels: int) -> None:
    """Errors: ``UserError`` if groups of channels would not be of equal size."""
    if groups < 1 or channels % groups:
        raise UserError(
            f"norm.groups={groups} does not divide the {channels} channels of a layer of this model: "
            f"choose a divisor of {channels}."
        )


def copy_of(conv: nn.Conv2d, kind: type[Conv], *, bias: bool, **options: Any) -> Conv:
    """A convolution of another kind with the shape and the initial weights of ``conv``; a bias it lacked starts at
    zero."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    layer = kind(**{name: getattr(conv, name) for name in names}, bias=bias, **options)
    with torch.no_grad():
        layer.weight.copy_(conv.weight)
        if layer.bias is not None:
            layer.bias.copy_(conv.bias if conv.bias is not None else torch.zeros_like(layer.bias))
    return layer
