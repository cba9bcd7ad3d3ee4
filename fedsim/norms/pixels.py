"""Layers that normalize each channel of an image by itself need more than one pixel to do so."""

import torch
from timm.layers.filter_response_norm import FilterResponseNormTlu2d
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from fedsim.errors import UserError

BY_PIXELS: tuple[type[nn.Module], ...] = (_InstanceNorm, FilterResponseNormTlu2d)


def check_pixels(model: nn.Module, norm: str, image_shape: tuple[int, int, int]) -> None:
    """Errors: ``UserError`` if a layer that normalizes over the pixels of a channel gets one pixel of such an image.

    Tries it with one image, where the model has such layers; neither the model nor a random generator changes.
    """

    def refuse(layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if args[0][0, 0].numel() == 1:
            raise UserError(
                f"norm={norm} normalizes over the pixels of each channel, of which {places[layer]} gets a single one "
                f"from images of {image_shape[1]}x{image_shape[2]}: choose a larger dataset.image_size or another norm."
            )

    places = {layer: name for name, layer in model.named_modules() if isinstance(layer, BY_PIXELS)}
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
