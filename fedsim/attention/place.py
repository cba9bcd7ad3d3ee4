"""Where an attention stands in a model that was written without one."""

from collections.abc import Callable

from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import Bottleneck

from fedsim.core.errors import UserError
from fedsim.norms import NORM_LAYERS
from fedsim.norms.residual import BLOCKS

ACTIVATIONS: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Tanh),
)

Place = tuple[nn.Module, str, int]
"""A module, the name of the layer in it that the attention is to follow, and the channels there."""


def no_attention(model: nn.Module) -> nn.Module:
    """``attention=none``: the model as it is."""
    return model


def place_attention(model: nn.Module, name: str, make: Callable[[int], nn.Module]) -> nn.Module:
    """Puts ``make(channels)`` into the model, in place, and returns the model. It stands

    * in residual networks of torchvision's blocks at the end of each residual branch, before the addition, as in SENet
      (Hu et al. 2018, arXiv 1709.01507);
    * in MobileNetV2 behind the depthwise convolution of each block and its activation, as in MobileNetV3 (Howard et al.
      2019, arXiv 1905.02244);
    * elsewhere behind the activation that follows a convolution in an ``nn.Sequential``, before the pooling.

    The layer it follows and the attention become an ``nn.Sequential`` in that layer's place, so that the names of all
    other layers stay as they are.

    Errors: ``UserError`` if a convolution of a network of the third kind has no such place, or there is none at all.
    """
    # All places are found before the first is taken: the layers of an attention are no places.
    places = _residual_branches(model) or _inverted_residuals(model) or _behind_activations(model, name)
    for parent, layer, channels in places:
        setattr(parent, layer, nn.Sequential(parent.get_submodule(layer), make(channels)))
    return model


def _residual_branches(model: nn.Module) -> list[Place]:
    places = []
    for block in model.modules():
        if isinstance(block, BLOCKS):
            last = 3 if isinstance(block, Bottleneck) else 2
            places.append((block, f"bn{last}", _channels(block.get_submodule(f"conv{last}"))))
    return places


def _inverted_residuals(model: nn.Module) -> list[Place]:
    places = []
    for block in model.modules():
        if isinstance(block, InvertedResidual):
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
    """The convolutions of a sequence that only norm layers separate from an activation, and the activations' names.

    Behind a norm layer an identity counts as one: a norm that activates, like EvoNorm, leaves it where the ReLU was.
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
    return all(isinstance(leaf, (*NORM_LAYERS, nn.Identity)) for leaf in leaves)


def _channels(convolution: nn.Module) -> int:
    assert isinstance(convolution, nn.Conv2d)
    return convolution.out_channels
