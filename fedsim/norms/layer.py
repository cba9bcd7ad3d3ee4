"""``norm=ln``: Layer Normalization (Ba et al. 2016, arXiv 1607.06450) in place of BatchNorm; LayerNorms stay."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.norms.replace import affine_of, channels_of, eps_of, has_layers, keep_affine, replace_batch_norm


def use_layer_norm(model: nn.Module) -> nn.Module:
    """Replace every BatchNorm by LayerNorm, which normalizes each image over its channels and pixels together.

    It is ``GroupNorm(1, C)``, with a scale and a shift for each channel: unlike ``nn.LayerNorm((C, H, W))`` it has no
    scale for each pixel, so it takes images of any size. On the (N, C) of a linear layer it is ``nn.LayerNorm(C)``.
    LayerNorms that a network is written with, which normalize each token over its channels, do not change.

    Raises:
        UserError: If the network has neither BatchNorm nor LayerNorm.
    """
    if has_layers(model, nn.LayerNorm) and not has_layers(model, _BatchNorm):
        return model

    def make(layer: nn.Module) -> nn.Module:
        return keep_affine(layer, nn.GroupNorm(1, channels_of(layer), eps=eps_of(layer), affine=affine_of(layer)))

    return replace_batch_norm(model, "ln", make)
