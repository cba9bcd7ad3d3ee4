"""Checks that no layer would normalize a single value.

Layers that normalize each channel of an image, or a group of one channel, by itself need more than one pixel; layers
that normalize over the batch and its pixels need more than one image of a single pixel.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.norms.registry import Over, batch_layers, layers_over


@contextmanager
def single_values_refused(model: nn.Module, norm: str) -> Iterator[None]:
    """Refuse, inside the block, a forward pass of one image in which a batch would be a single value of each channel.

    A layer that normalizes over the batch and its pixels makes nothing of such values.

    Raises:
        UserError: If a layer that cannot train on them gets such values.
    """

    def refuse(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if args[0].numel() == args[0].shape[1]:
            raise UserError(
                f"batch_size=1 gives norm={norm} no batch to normalize over: choose at least 2, or another norm."
            )

    types = batch_layers()
    hooks = [layer.register_forward_pre_hook(refuse) for layer in model.modules() if isinstance(layer, types)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_pixels(model: nn.Module, norm: str, image_shape: tuple[int, int, int]) -> None:
    """Refuse a network in which a layer that normalizes over the pixels of a channel gets a single pixel.

    If the model has such layers, an image of zeros in ``image_shape`` is tried; neither the model nor a random
    generator changes.

    Raises:
        UserError: If a layer that normalizes each channel, or groups of one channel, would get a single value.
    """

    def refuse(layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        channels, pixels = args[0].shape[1], args[0][0, 0].numel()
        if pixels == 1 and _groups(layer, channels) == channels:
            if isinstance(layer, layers_over(Over.GROUP)):
                raise UserError(
                    f"norm={norm} leaves each group a single value in {places[layer]}, which gets one pixel of "
                    f"{channels} channels from images of {image_shape[1]}x{image_shape[2]}: choose fewer norm.groups, "
                    "a larger norm.channels_per_group, or another norm."
                )
            raise UserError(
                f"norm={norm} normalizes over the pixels of each channel, of which {places[layer]} gets a single one "
                f"from images of {image_shape[1]}x{image_shape[2]}: choose a larger dataset.image_size or another norm."
            )

    places = {layer: name for name, layer in model.named_modules() if _is_by_pixels(layer)}
    if not places:
        return
    modes = [(module, module.training) for module in model.modules()]
    hooks = [layer.register_forward_pre_hook(refuse) for layer in places]
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *image_shape))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training


def _groups(layer: nn.Module, channels: int) -> int:
    """Return the number of groups into which the layer divides these channels."""
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups
    return int(layer.groups) if isinstance(layer, layers_over(Over.GROUP)) else channels  # type: ignore[arg-type]


def _is_by_pixels(layer: nn.Module) -> bool:
    """Return whether the layer may normalize each channel by itself, if its number of channels does not exclude it."""
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups == layer.num_channels
    return isinstance(layer, (*layers_over(Over.CHANNEL), *layers_over(Over.GROUP)))
