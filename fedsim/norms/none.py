"""``norm=none``: no normalization layers."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.norms.replace import keep_activation, replace_layers
from fedsim.norms.residual import ALPHA, check_residual, scale_residuals


def remove_norm(model: nn.Module, residual: str = "plain", alpha: float | None = None) -> nn.Module:
    """Replace every BatchNorm and LayerNorm by the identity; other layers do not change, and do not get a bias.

    ``residual="nf"`` scales the branches of residual blocks by ``alpha``, 0.2 for ``None``, and a skip gain
    (``scale_residuals``).

    Raises:
        UserError: As ``check_residual`` and ``scale_residuals``.
    """
    return _without(model, (_BatchNorm, nn.LayerNorm), residual, alpha)


def remove_batch_norm(model: nn.Module, residual: str = "plain", alpha: float | None = None) -> nn.Module:
    """Replace every BatchNorm by the identity, as ``remove_norm`` does, for norms that standardize convolutions.

    Raises:
        UserError: As ``remove_norm``.
    """
    return _without(model, (_BatchNorm,), residual, alpha)


def _without(model: nn.Module, types: tuple[type[nn.Module], ...], residual: str, alpha: float | None) -> nn.Module:
    check_residual(residual, alpha)
    without = replace_layers(model, types, lambda layer: keep_activation(layer, nn.Identity()))
    return scale_residuals(without, ALPHA if alpha is None else alpha) if residual == "nf" else without
