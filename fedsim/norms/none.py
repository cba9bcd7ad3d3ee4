"""``norm=none``: no normalization layers."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.norms.replace import replace_layers
from fedsim.norms.residual import check_residual, scale_residuals


def remove_norm(model: nn.Module, residual: str = "plain", alpha: float = 0.2) -> nn.Module:
    """Replace every BatchNorm by the identity; other layers do not change, and do not get a bias if they have none.

    ``residual="nf"`` scales the branches of residual blocks by ``alpha`` and a skip gain (``scale_residuals``).

    Raises:
        UserError: If ``residual`` is unknown, or as ``scale_residuals``.
    """
    check_residual(residual)
    without = replace_layers(model, (_BatchNorm,), lambda layer: nn.Identity())
    return scale_residuals(without, alpha) if residual == "nf" else without
