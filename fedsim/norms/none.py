"""``norm=none``: no normalization layers."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.core.errors import UserError
from fedsim.norms.replace import TORCH_NORM_LAYERS, keep_activation, replace_layers, timm_norm_layers
from fedsim.norms.residual import ALPHA, check_residual, scale_residuals


def remove_norm(model: nn.Module, residual: str = "plain", alpha: float | None = None) -> nn.Module:
    """Replace every BatchNorm and LayerNorm by the identity; other layers do not change, and do not get a bias.

    ``residual="nf"`` scales the branches of residual blocks by ``alpha``, 0.2 for ``None``, and a skip gain
    (``scale_residuals``).

    Raises:
        UserError: If a norm layer of another type would be left, or as ``check_residual`` and ``scale_residuals``.
    """
    return _without(model, (_BatchNorm, nn.LayerNorm), "none", residual, alpha)


def remove_batch_norm(model: nn.Module, norm: str, residual: str = "plain", alpha: float | None = None) -> nn.Module:
    """Replace every BatchNorm by the identity, as ``remove_norm`` does, for a norm that standardizes convolutions.

    Raises:
        UserError: As ``remove_norm``.
    """
    return _without(model, (_BatchNorm,), norm, residual, alpha)


def _without(
    model: nn.Module, types: tuple[type[nn.Module], ...], norm: str, residual: str, alpha: float | None
) -> nn.Module:
    check_residual(residual, alpha)
    _refuse_others(model, types, norm)
    without = replace_layers(model, types, lambda layer: keep_activation(layer, nn.Identity()))
    return scale_residuals(without, ALPHA if alpha is None else alpha) if residual == "nf" else without


def _refuse_others(model: nn.Module, types: tuple[type[nn.Module], ...], norm: str) -> None:
    """Refuse a network with norm layers of other types, which would go on normalizing.

    Raises:
        UserError: If it has some.
    """
    known = (*TORCH_NORM_LAYERS, *timm_norm_layers())
    left = [layer for layer in model.modules() if isinstance(layer, known) and not isinstance(layer, types)]
    if left:
        names = ", ".join(sorted({type(layer).__name__ for layer in left}))
        raise UserError(
            f"norm={norm} would leave the {names} of this network in its place: choose norm=bn, which leaves the whole "
            "network as it is, or another model."
        )
