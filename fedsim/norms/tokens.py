"""Replacement of LayerNorm, the layer of transformers, whose inputs are tokens (N, L, C) and not images (N, C, H, W).

A LayerNorm over channels normalizes each token by itself. What replaces it gets all tokens as the rows of (N * L, C):
a layer of each token normalizes the same axis as before, and one with statistics of each channel takes them over the
batch and its tokens.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.core.errors import UserError
from fedsim.core.loaded import loaded
from fedsim.norms.replace import (
    has_layers,
    keep_activation,
    replace_batch_norm,
    replace_layers,
    timm_norm_layers,
)

Make = Callable[[nn.Module], nn.Module]


def of_images() -> tuple[type, ...]:
    """Return the LayerNorms of (N, C, H, W), which normalize the channels of each pixel."""
    return (
        *loaded("torchvision.models.convnext", "LayerNorm2d"),
        *(kind for kind in _layer_norms_of_timm() if "2d" in kind.__name__),
    )


def _layer_norms_of_timm() -> tuple[type, ...]:
    return tuple(kind for kind in timm_norm_layers() if issubclass(kind, nn.LayerNorm))


class Tokens(nn.Module):
    """Applies a layer for (N, C) to all tokens of (N, ..., C), or with ``of_images`` to all pixels of (N, C, ...)."""

    def __init__(self, layer: nn.Module, of_images: bool = False) -> None:
        super().__init__()
        self.layer, self.of_images = layer, of_images

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        tokens = input.movedim(1, -1) if self.of_images else input
        output: torch.Tensor = self.layer(tokens.flatten(0, -2)).reshape(tokens.shape)
        return output.movedim(-1, 1) if self.of_images else output

    def extra_repr(self) -> str:
        return "of_images=True" if self.of_images else ""


def replace_norms(model: nn.Module, norm: str, make: Make, of_tokens: Make | None = None) -> nn.Module:
    """Replace each BatchNorm by ``make(layer)`` and each LayerNorm by ``of_tokens(layer)``, in place; return the model.

    Args:
        model: The network, written with one of the two or with both.
        norm: The choice of ``norm=``, for error messages.
        make: Makes the layer in the place of a BatchNorm, which takes (N, C, ...).
        of_tokens: Makes the layer in the place of a LayerNorm over channels; by default ``make`` applied to tokens.

    Raises:
        UserError: If there is neither, or a LayerNorm of another kind than over channels.
    """
    if not has_layers(model, nn.LayerNorm):
        return replace_batch_norm(model, norm, make)
    for path, layer in model.named_modules():
        if isinstance(layer, nn.LayerNorm):
            _refuse_other(path, layer, norm)
    if has_layers(model, _BatchNorm):
        model = replace_batch_norm(model, norm, make)
    return replace_layers(
        model, (nn.LayerNorm,), of_tokens or (lambda layer: keep_activation(layer, tokens_like(layer, make(layer))))
    )


def tokens_like(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """Return ``norm``, which takes (N, C), in the form that takes the inputs of the LayerNorm ``layer``."""
    return Tokens(norm, of_images=isinstance(layer, of_images()))


def channels_last(model: nn.Module) -> Iterator[str]:
    """Yield the names of the LayerNorms whose inputs have their channels in the last dimension."""
    images = of_images()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.LayerNorm) and not isinstance(layer, images):
            yield name


def _refuse_other(path: str, layer: nn.LayerNorm, norm: str) -> None:
    """Refuse a LayerNorm over more than channels, or of a class whose inputs are not known.

    Raises:
        UserError: If it is one.
    """
    if type(layer) not in (nn.LayerNorm, *_layer_norms_of_timm(), *of_images()) or len(layer.normalized_shape) > 1:
        raise UserError(
            f"norm={norm} would replace {path or 'the network'}, a {type(layer).__name__} over "
            f"{tuple(layer.normalized_shape)} that is not known to normalize the channels of tokens: choose norm=ln, "
            "which leaves it as it is, or another model."
        )
