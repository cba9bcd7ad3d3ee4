"""Replacing layers of a model by type, wherever they stand in it."""

from collections.abc import Callable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

NORM_LAYERS: tuple[type[nn.Module], ...] = (
    *(_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.CrossMapLRN2d),
)
"""Every layer of torch that normalizes activations; FedWon's models hold none of them."""


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
