"""Construction of the network from ``model=`` and the groups that change it, with weights drawn by the seed."""

from typing import TYPE_CHECKING

from torch import nn

from fedsim.config.binding import instantiate
from fedsim.core.seeding import global_seed
from fedsim.models.first_pass import ImageShape, first_pass
from fedsim.models.freeze import train_only
from fedsim.models.pretrained import Pretrained, network_options
from fedsim.norms.pixels import check_pixels
from fedsim.norms.policy import layer_options

if TYPE_CHECKING:
    from fedsim.config.settings import Settings

CHANGES = ("norm", "attention", "head", "reparam")
"""The groups that change the network."""


def build_model(settings: "Settings", num_classes: int, image_shape: ImageShape = (3, 28, 28)) -> nn.Module:
    """Return the initial model: the same on the server and on every client, since both build it from the same seed.

    The network's function gets ``num_classes`` and ``image_shape`` if it has these parameters. Then ``norm=``,
    ``attention=``, ``head=``, ``reparam=`` and ``train_only=`` are applied in this order. ``model.pretrained`` is
    loaded before these, or, if it holds a network that was changed by them, such as another run's, after them.

    Raises:
        UserError: If options are wrong or contradict each other, the network does not accept the images, the pretrained
            weights are another network's, or nothing tells whether they are from before or after these changes.
    """

    def build(shape: ImageShape) -> nn.Module:
        offered = {"num_classes": num_classes, "image_shape": shape}
        network = instantiate("model", network_options(settings.model), offered=offered)
        assert isinstance(network, nn.Module)
        return network

    pretrained = Pretrained.of(settings.model)
    with global_seed(settings.seeds.model, "model"):
        network = build(image_shape)
        first_pass(network, build, settings, num_classes, image_shape)
        as_written = pretrained is not None and pretrained.difference(network) is None
        whole = pretrained is not None and pretrained.is_whole(network)
        if pretrained is not None and as_written:
            pretrained.load(network)
        network = instantiate("norm", layer_options(settings.norm), network)
        check_pixels(network, settings.norm["name"], image_shape)
        network = instantiate("attention", settings.attention, network)
        network = instantiate("head", settings.head, network)
        network = instantiate("reparam", settings.reparam, network, offered={"train_only": settings.train_only})
        if settings.train_only is not None:
            network = train_only(network, settings.train_only, redraw=pretrained is None)
        assert isinstance(network, nn.Module)
        if pretrained is None:
            return network
        # Without a bias, the classifier of a changed network looked above like one that is missing.
        if not as_written or (pretrained.is_whole(network) and not whole):
            pretrained.load(network)
        else:
            pretrained.check_same(network, ", ".join(f"{key}={getattr(settings, key)['name']}" for key in CHANGES))
    return network
