"""From ``model=`` and ``norm=`` to a network with the weights that the seed says."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from fedsim.binding import instantiate
from fedsim.models.freezing import train_only
from fedsim.norms.policy import layer_options
from fedsim.seeding import global_seed

ImageShape = tuple[int, int, int]
"""(channels, height, width)"""


def build_model(
    model: Mapping[str, Any],
    norm: Mapping[str, Any],
    num_classes: int,
    seed: int,
    image_shape: ImageShape = (3, 28, 28),
    trained: str | None = None,
) -> nn.Module:
    """The initial model: the same on the server and on every client, since both build it from the same seed.

    A network is told the number of classes and the shape of the images, if it names them. ``trained`` is the setting
    ``train_only``.
    """
    offered = {"num_classes": num_classes, "image_shape": image_shape}
    with global_seed(seed, "model"):
        network = instantiate("model", model, offered=offered)
        network = instantiate("norm", layer_options(norm), network)
        if trained is not None:
            network = train_only(network, trained)
    assert isinstance(network, nn.Module)
    return network
