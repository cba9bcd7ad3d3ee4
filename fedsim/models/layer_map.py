"""Where a network's layers are once ``norm=`` and its neighbours have replaced them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.config.binding import instantiate

WRAPPER = ".block."
"""A residual block that was put into another module (``ScaledResidual``) has its layers one step deeper."""


def as_written(model: Mapping[str, Any], num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """The network of ``model=`` as its author wrote it, with BatchNorm; its shapes only, without memory or values."""
    with torch.device("meta"):
        network = instantiate("model", model, offered={"num_classes": num_classes, "image_shape": image_shape})
    assert isinstance(network, nn.Module)
    return network


def norm_sites(written: nn.Module, model: nn.Module) -> dict[str, nn.Module]:
    """For each BatchNorm of the network as written, by its name there, what stands in its place.

    That is the same set of places for every ``norm=``, so that what happens there can be compared; where nothing
    normalizes it is an identity.
    """
    layers = _by_written_name(model)
    return {name: layers[name] for name, layer in written.named_modules() if isinstance(layer, _BatchNorm)}


def replaced_layers(written: nn.Module, model: nn.Module) -> list[tuple[str, str, str]]:
    """Name, what the author wrote and what stands there, for every layer that is another one or configured
    otherwise."""
    layers = _by_written_name(model)
    rows = []
    for name, layer in written.named_modules():
        now = layers.get(name)
        if not list(layer.children()) and repr(now) != repr(layer):
            rows.append((name, repr(layer), "nothing" if now is None else " ".join(repr(now).split())))
    return rows


def _by_written_name(model: nn.Module) -> dict[str, nn.Module]:
    return {name.replace(WRAPPER, "."): layer for name, layer in model.named_modules(remove_duplicate=False)}
