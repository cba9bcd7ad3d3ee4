"""From ``model=`` and ``norm=`` to a network with the weights that the seed says."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from fedsim.binding import instantiate
from fedsim.seeding import global_seed


def build_model(model: Mapping[str, Any], norm: Mapping[str, Any], num_classes: int, seed: int) -> nn.Module:
    """The initial model: the same on the server and on every client, since both build it from the same seed."""
    with global_seed(seed, "model"):
        network = instantiate("model", model, num_classes=num_classes)
        network = instantiate("norm", norm, network)
    assert isinstance(network, nn.Module)
    return network
