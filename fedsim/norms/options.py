"""What the options of norms may be; everything else is refused in one sentence."""

import math

from torch import nn
from torch.nn.modules.batchnorm import BatchNorm1d

from fedsim.errors import UserError
from fedsim.norms.replace import channels_of


def check_positive(key: str, value: float) -> None:
    """Errors: ``UserError`` unless ``norm.KEY`` is a number above 0."""
    if not 0 < value < math.inf:
        raise UserError(f"norm.{key}={value} is not possible: choose a number above 0.")


def check_share(key: str, value: float) -> None:
    """Errors: ``UserError`` unless ``norm.KEY``, what a running mean keeps at each batch, is in [0, 1)."""
    if not 0 <= value < 1:
        raise UserError(f"norm.{key}={value} is not possible: choose a number from 0 to below 1.")


def check_count(key: str, value: int, least: int) -> None:
    """Errors: ``UserError`` if ``norm.KEY`` is below ``least``."""
    if value < least:
        raise UserError(f"norm.{key}={value} is not possible: choose a whole number of {least} or more.")


def check_groups(groups: int, layer: nn.Module) -> None:
    """Errors: ``UserError`` if groups of the layer's channels would not be of equal size, or of a linear layer a single
    value each, which has no deviation."""
    channels = channels_of(layer)
    if groups < 1 or channels % groups:
        raise UserError(
            f"norm.groups={groups} does not divide the {channels} channels of a layer of this model: "
            f"choose a divisor of {channels}."
        )
    if isinstance(layer, BatchNorm1d) and groups == channels:
        raise UserError(
            f"norm.groups={groups} leaves each group a single value in a linear layer of {channels}: "
            f"choose a smaller divisor of {channels}."
        )


def check_fan_in(norm: str, conv: nn.Conv2d) -> None:
    """Errors: ``UserError`` if the filters have a single weight, which standardization would make zero."""
    if conv.weight[0].numel() < 2:
        raise UserError(
            f"norm={norm} is not possible for a convolution with a fan-in of 1: choose another norm or model."
        )
