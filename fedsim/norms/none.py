"""``norm=none``: no normalization layers."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.norms.replace import keep_activation, replace_layers
from fedsim.norms.residual import check_residual, scale_residuals


def remove_norm(model: nn.Module, residual: str = "plain", alpha: float = 0.2) -> nn.Module:
    """Replace every BatchNorm and LayerNorm by the identity; other layers do not change, and do not get a bias.

    ``residual="nf"`` scales the branches of residual blocks by ``alpha`` and a skip gain (``scale_residuals``).

    Raises:
        UserError: If ``residual`` is unknown, or as ``scale_residuals``.
    """
    return _without(model, (_BatchNorm, nn.LayerNorm), residual, alpha)


def remove_batch_norm(model: nn.Module, residual: str = "plain", alpha: float = 0.2) -> nn.Module:
    """Replace every BatchNorm by the identity, as ``remove_norm`` does, for norms that standardize convolutions.

    Raises:
        UserError: As ``remove_norm``.
    """
    return _without(model, (_BatchNorm,), residual, alpha)


def _without(model: nn.Module, types: tuple[type[nn.Module], ...], residual: str, alpha: float) -> nn.Module:
    check_residual(residual)
    without = replace_layers(model, types, lambda layer: keep_activation(layer, nn.Identity()))
    return scale_residuals(without, alpha) if residual == "nf" else without
