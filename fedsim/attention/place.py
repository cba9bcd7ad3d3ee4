"""The places of attention layers in a model that was written without them."""

from collections.abc import Callable

from torch import nn

from fedsim.core.errors import UserError
from fedsim.core.loaded import loaded
from fedsim.norms import norm_layers
from fedsim.norms.replace import fitted
from fedsim.norms.residual import has_bottleneck, residual_blocks

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Tanh),
)

Place = tuple[nn.Module, str, int]
"""A module, the name of the layer in it after which the attention is inserted, and the number of channels there."""


def no_attention(model: nn.Module) -> nn.Module:
    """Leave the model unchanged (``attention=none``)."""
    return model


def place_attention(model: nn.Module, name: str, make: Callable[[int], nn.Module]) -> nn.Module:
    """Insert ``make(channels)`` into the model at all places, in place, and return the model.

    The places are

    * in residual networks with torchvision's blocks, the end of each residual branch, before the addition, as in SENet
      (Hu et al. 2018, arXiv 1709.01507);
    * in MobileNetV2, after the depthwise convolution of each block and its activation, as in MobileNetV3 (Howard et al.
      2019, arXiv 1905.02244);
    * in other networks, after the activation that follows a convolution in an ``nn.Sequential``, before the pooling.

    The layer before the place is replaced by an ``nn.Sequential`` of it and the attention, so that the names of all
    other layers do not change.

    Args:
        model: The network.
        name: The choice of ``attention=``, for the error message.
        make: Makes the attention layer for a number of channels.

    Raises:
        UserError: If a convolution of a network of the third kind has no such place, or there is none at all.
    """
    # All places are found before the first insertion, since layers of an attention are not places.
    places = _residual_branches(model) or _inverted_residuals(model) or _behind_activations(model, name)
    for parent, layer, channels in places:
        setattr(parent, layer, nn.Sequential(parent.get_submodule(layer), fitted(parent, make(channels))))
    return model


def _residual_branches(model: nn.Module) -> list[Place]:
    places, types = [], residual_blocks()
    for block in model.modules():
        if isinstance(block, types):
            last = 3 if has_bottleneck(block) else 2
            places.append((block, f"bn{last}", _channels(block.get_submodule(f"conv{last}"))))
    return places


def _inverted_residuals(model: nn.Module) -> list[Place]:
    places: list[Place] = []
    types = loaded("torchvision.models.mobilenetv2", "InvertedResidual")
    for block in model.modules():
        if isinstance(block, types):
            assert isinstance(block.conv, nn.Sequential)
            depthwise = [layers for layers in block.conv if isinstance(layers, nn.Sequential)][-1]
            places += _places_of(depthwise)
    return places


def _behind_activations(model: nn.Module, name: str) -> list[Place]:
    sequences = [layers for layers in model.modules() if isinstance(layers, nn.Sequential)]
    followed = {id(convolution) for layers in sequences for convolution, _ in _followed(layers)}
    convolutions = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    left = [path for path, layer in convolutions if id(layer) not in followed]
    if left or not followed:
        where = f"{left[0]} is not" if left else "there is none"
        raise UserError(
            f"attention={name} stands at the end of residual branches, or behind each convolution that an activation "
            f"follows in an nn.Sequential, and {where}: choose another model, or attention=none."
        )
    return [place for layers in sequences for place in _places_of(layers)]


def _places_of(layers: nn.Sequential) -> list[Place]:
    return [(layers, activation, _channels(convolution)) for convolution, activation in _followed(layers)]


def _followed(layers: nn.Sequential) -> list[tuple[nn.Conv2d, str]]:
    """Return the convolutions of a sequence with only norm layers before the next activation, and its name.

    After a norm layer an identity counts as an activation: norms with an activation, like EvoNorm, replace the ReLU by
    it.
    """
    found: list[tuple[nn.Conv2d, str]] = []
    convolution: nn.Conv2d | None = None
    normalized = False
    for name, layer in layers.named_children():
        if isinstance(layer, nn.Conv2d):
            convolution, normalized = layer, False
        elif convolution is not None:
            if isinstance(layer, ACTIVATIONS) or (normalized and isinstance(layer, nn.Identity)):
                found.append((convolution, name))
                convolution = None
            elif not _only_normalizes(layer):
                convolution = None
            normalized = not isinstance(layer, nn.Identity)
    return found


def _only_normalizes(layer: nn.Module) -> bool:
    leaves = [each for each in layer.modules() if not list(each.children())]
    return all(isinstance(leaf, (*norm_layers(), nn.Identity)) for leaf in leaves)


def _channels(convolution: nn.Module) -> int:
    assert isinstance(convolution, nn.Conv2d)
    return convolution.out_channels
