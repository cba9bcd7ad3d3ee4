"""Adaptive gradient clipping (Brock et al., ICML 2021, arXiv 2102.06171, Eq. 3), as FedWon uses it on its clients."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from fedsim.models.classifier import logit_parameters
from fedsim.norms.convolutions import swap_channels

WEIGHT_FLOOR = 1e-3
GRADIENT_FLOOR = 1e-6


def unitwise_norm(tensor: torch.Tensor) -> torch.Tensor:
    """Return the L2 norm of each unit, in a shape that broadcasts against ``tensor``.

    A unit is a row: an output channel of a convolution (over input channels and kernel) or of a linear layer (over
    input features). A tensor that is a vector once axes of length one are dropped, such as a bias or the gains
    (C_out, 1, ...), is one unit as a whole.
    """
    whole = tensor.squeeze().dim() <= 1
    axes = None if whole else tuple(range(1, tensor.dim()))
    norm: torch.Tensor = torch.linalg.vector_norm(tensor, dim=axes, keepdim=not whole)
    return norm


@torch.no_grad()
def clip_adaptively(
    parameters: list[nn.Parameter], clip: float, transposed: Mapping[nn.Parameter, int] | None = None
) -> None:
    """Scale each unit's gradient down, in place, to the norm ``clip * max(|W|, 1e-3)`` where it is longer.

    Args:
        parameters: The parameters W whose gradients are clipped.
        clip: The largest ratio of the norms of gradient and weight.
        transposed: Number of groups by weight, for weights whose second axis is that of the output channels.
    """
    for parameter in parameters:
        if parameter.grad is None:
            continue
        weight: torch.Tensor = parameter
        gradient, groups = parameter.grad, (transposed or {}).get(parameter)
        if groups is not None:
            weight, gradient = swap_channels(weight, groups), swap_channels(gradient, groups)
        limit = clip * unitwise_norm(weight).clamp(min=WEIGHT_FLOOR)
        norm = unitwise_norm(gradient)
        scale = torch.where(norm > limit, limit / norm.clamp(min=GRADIENT_FLOOR), 1.0)
        parameter.grad.mul_(scale if groups is None else swap_channels(scale.expand_as(gradient), groups))


def transposed_weights(model: nn.Module) -> dict[nn.Parameter, int]:
    """Return the weights (C_in, C_out / groups, ...) of transposed convolutions, with their numbers of groups."""
    layers = [layer for layer in model.modules() if isinstance(layer, _ConvTransposeNd)]
    weights = [(layer._parameters.get("weight"), layer.groups) for layer in layers]
    return {weight: groups for weight, groups in weights if weight is not None}


def all_but_last_linear(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters without those of the layer that produces the logits.

    This layer is the classifier, in a network like SqueezeNet the 1x1 convolution that serves as one; with tied weights
    it is the shared matrix.
    """
    spared = {id(parameter) for parameter in logit_parameters(model)}
    return [parameter for parameter in model.parameters() if id(parameter) not in spared]
