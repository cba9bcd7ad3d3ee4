"""The parts of torchvision's residual blocks, for norms that change how the two branches are added."""

import math
from typing import Any

import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.core.loaded import loaded
from fedsim.norms.checks import check_positive
from fedsim.norms.replace import fitted

ALPHA = 0.2
"""The default of ``norm.alpha``."""
RESNET = "torchvision.models.resnet"


def residual_blocks() -> tuple[type, ...]:
    """Return the types of torchvision's residual blocks."""
    return loaded(RESNET, "BasicBlock", "Bottleneck")


def has_bottleneck(block: nn.Module) -> bool:
    """Return whether the residual branch of a block has three convolutions instead of two."""
    return isinstance(block, loaded(RESNET, "Bottleneck"))


def residual_branch(block: Any, input: torch.Tensor) -> torch.Tensor:
    """Return the output of the residual branch, which the block adds to its shortcut."""
    hidden = block.relu(block.bn1(block.conv1(input)))
    output: torch.Tensor = block.bn2(block.conv2(hidden))
    if has_bottleneck(block):
        output = block.bn3(block.conv3(block.relu(output)))
    return output


def shortcut(block: Any, input: torch.Tensor) -> torch.Tensor:
    if block.downsample is None:
        return input
    output: torch.Tensor = block.downsample(input)
    return output


class ScaledResidual(nn.Module):
    r"""A residual block that controls the variance of activations without a normalization layer.

    .. math:: y = \mathrm{relu}(s + g \, \alpha \, f(\beta x))

    with the shortcut :math:`s = x`, or that of :math:`\beta x` if the block changes the shape, and a learnable skip
    gain g that starts at zero, so that the network initially consists of its shortcuts (Brock et al., ICLR 2021, arXiv
    2101.08692, and SkipInit, De & Smith 2020, arXiv 2002.10444). The paper's blocks have the activation before the
    convolution; torchvision's have their ReLU after the addition.
    """

    def __init__(self, block: Any, alpha: float, beta: float) -> None:
        super().__init__()
        self.block, self.alpha, self.beta = block, alpha, beta
        self.skip_gain = nn.Parameter(torch.zeros(()))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        scaled = self.beta * input
        passed = input if self.block.downsample is None else shortcut(self.block, scaled)
        return torch.relu(passed + self.skip_gain * self.alpha * residual_branch(self.block, scaled))

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta:.4f}"


def scale_residuals(model: nn.Module, alpha: float) -> nn.Module:
    r"""Wrap every residual block in a ``ScaledResidual``, in place, and return the model.

    :math:`\beta` is the inverse of the expected standard deviation of the block's input: the expected variance grows
    by :math:`\alpha^2` with each block and is :math:`1 + \alpha^2` after a block that changes the shape.

    Raises:
        UserError: If the model has no residual block of torchvision's ResNets, or ``alpha`` is not above 0.
    """
    check_positive("alpha", alpha)
    variance, found, types = 1.0, False, residual_blocks()
    for parent in list(model.modules()):
        for name, block in list(parent.named_children()):
            if not isinstance(block, types):
                continue
            found = True
            setattr(parent, name, fitted(block, ScaledResidual(block, alpha, beta=1 / math.sqrt(variance))))
            variance = (1.0 if block.downsample is not None else variance) + alpha**2
    if not found:
        raise UserError("norm.residual=nf needs residual blocks: choose a resnet, or norm.residual=plain.")
    return model


RESIDUALS = ("plain", "nf")


def check_residual(residual: str, alpha: float | None = None) -> None:
    """Check the options ``norm.residual`` and ``norm.alpha``.

    Raises:
        UserError: If ``residual`` is unknown, or does not use the ``alpha`` that is given.
    """
    if residual not in RESIDUALS:
        raise UserError(f"norm.residual={residual} is not known: choose {' or '.join(RESIDUALS)}.")
    if alpha is not None and residual != "nf":
        raise UserError(
            f"norm.alpha={alpha} scales the branches of norm.residual=nf, and with norm.residual={residual} nothing: "
            "choose norm.residual=nf, or leave norm.alpha out."
        )
