"""Replacing layers of a model by type, wherever they stand in it."""

from collections.abc import Callable
from itertools import pairwise
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


def replace_batch_norm(model: nn.Module, norm: str, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Puts ``make(layer)`` in the place of each BatchNorm of any dimension.

    Errors: ``UserError`` if there is none, because the network would silently not be what ``norm`` says.
    """
    if not any(isinstance(layer, _BatchNorm) for layer in model.modules()):
        raise UserError(
            f"norm={norm} replaces BatchNorm, and this network has none: "
            "choose norm=bn, which leaves it as it is, or another model."
        )
    return replace_layers(model, (_BatchNorm,), make)


class OnePixel(nn.Module):
    """Lets a layer for (N, C, H, W) take the (N, C) of a linear layer, as images of one pixel."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(input[:, :, None, None])
        return output[:, :, 0, 0]


def replace_with_relu(model: nn.Module, norm: str, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Puts ``make(layer)`` in the place of each BatchNorm and the ReLU after it.

    Errors: ``UserError`` if a BatchNorm is not followed by a ReLU in the same ``nn.Sequential``.
    """
    replaced = 0
    for parent in model.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        for (place, layer), (after, activation) in pairwise(list(parent._modules.items())):
            if isinstance(layer, _BatchNorm) and isinstance(activation, nn.ReLU):
                setattr(parent, place, make(layer))
                setattr(parent, after, nn.Identity())
                replaced += 1
    left = [path for path, layer in model.named_modules() if isinstance(layer, _BatchNorm)]
    if left or not replaced:
        where = f"{left[0]} is not" if left else "there is none"
        raise UserError(f"norm={norm} replaces each BatchNorm and the ReLU after it, and {where}: choose another norm.")
    return model


def channels_of(layer: nn.Module) -> int:
    assert isinstance(layer, _BatchNorm)
    return layer.num_features


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
