"""From ``model=`` and the groups that change it to a network with the weights that the seed says."""

from typing import TYPE_CHECKING

from torch import nn

from fedsim.binding import instantiate
from fedsim.models.freezing import train_only
from fedsim.norms.pixels import check_pixels
from fedsim.norms.policy import layer_options
from fedsim.seeding import global_seed

if TYPE_CHECKING:
    from fedsim.settings import Settings

ImageShape = tuple[int, int, int]
"""(channels, height, width)"""


def build_model(settings: "Settings", num_classes: int, image_shape: ImageShape = (3, 28, 28)) -> nn.Module:
    """The initial model: the same on the server and on every client, since both build it from the same seed.

    A network is told the number of classes and the shape of the images, if it names them. Each of ``norm=``,
    ``attention=``, ``head=``, ``reparam=`` and ``train_only=`` changes what the ones before it left.
    """
    offered = {"num_classes": num_classes, "image_shape": image_shape}
    with global_seed(settings.seed, "model"):
        network = instantiate("model", settings.model, offered=offered)
        network = instantiate("norm", layer_options(settings.norm), network)
        check_pixels(network, settings.norm["name"], image_shape)
        network = instantiate("attention", settings.attention, network)
        network = instantiate("head", settings.head, network)
        network = instantiate("reparam", settings.reparam, network, offered={"train_only": settings.train_only})
        if settings.train_only is not None:
            network = train_only(network, settings.train_only)
    assert isinstance(network, nn.Module)
    return network
