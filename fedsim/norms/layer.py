"""``norm=ln``: Layer Normalization (Ba et al. 2016, arXiv 1607.06450) in the place of BatchNorm."""

from torch import nn

from fedsim.norms.replace import channels_of, replace_batch_norm


def use_layer_norm(model: nn.Module) -> nn.Module:
    """Every image is normalized over its channels and pixels together, with a scale and a shift for each channel.

    That is ``GroupNorm(1, C)``: unlike ``nn.LayerNorm((C, H, W))`` it has no scale for each pixel, so it takes images
    of any size. On the (N, C) of a linear layer it is ``nn.LayerNorm(C)``.
    """
    return replace_batch_norm(model, "ln", lambda layer: nn.GroupNorm(1, channels_of(layer)))
