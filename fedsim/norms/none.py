"""``norm=none``: no normalization layer at all."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.norms.replace import replace_layers


def remove_norm(model: nn.Module) -> nn.Module:
    """Every BatchNorm becomes the identity; the other layers stay as they are, with or without a bias."""
    return replace_layers(model, (_BatchNorm,), lambda layer: nn.Identity())
