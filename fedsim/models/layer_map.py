"""The mapping from layers of a network as written to the layers after ``norm=`` and other groups replaced some."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.config.binding import instantiate
from fedsim.models.pretrained import network_options
from fedsim.norms.ibn import NormalizedSum
from fedsim.norms.residual import ScaledResidual

WRAPPERS = (ScaledResidual, NormalizedSum)
"""The types of modules that have a residual block of the network as written as their ``block``."""
SITES = (_BatchNorm, nn.LayerNorm)
"""The types of layers in whose places ``norm=`` puts others."""


def as_written(model: Mapping[str, Any], num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return the network of ``model=`` as written, with its own norm layers, on the meta device: no values."""
    offered = {"num_classes": num_classes, "image_shape": image_shape}
    with torch.device("meta"):
        network = instantiate("model", network_options(model), offered=offered)
    assert isinstance(network, nn.Module)
    return network


def norm_sites(written: nn.Module, model: nn.Module) -> dict[str, nn.Module]:
    """Return, for each BatchNorm and LayerNorm of the network as written, by its name there, the layer in its place.

    These places are the same for every ``norm=``, so that they can be compared; without normalization the layer is an
    identity.
    """
    layers = _by_written_name(model)
    return {name: layers[name] for name, layer in written.named_modules() if isinstance(layer, SITES)}


def replaced_layers(written: nn.Module, model: nn.Module) -> list[tuple[str, str, str]]:
    """Return name, representation as written and current one, for every layer that was replaced or reconfigured."""
    layers = _by_written_name(model)
    rows = []
    for name, layer in written.named_modules():
        now = layers.get(name)
        if not list(layer.children()) and repr(now) != repr(layer):
            rows.append((name, repr(layer), "nothing" if now is None else " ".join(repr(now).split())))
    return rows


def _by_written_name(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of the model by their names as written: those of a wrapped block are one level deeper here."""
    modules = dict(model.named_modules(remove_duplicate=False))
    wrapped = {f"{name}.block.": f"{name}." for name, layer in modules.items() if isinstance(layer, WRAPPERS)}

    def written(name: str) -> str:
        deeper = next((prefix for prefix in wrapped if name.startswith(prefix)), None)
        return name if deeper is None else wrapped[deeper] + name.removeprefix(deeper)

    return {written(name): layer for name, layer in modules.items()}
