"""Which weights a network begins with: at random, by magnitude, by SNIP or by SynFlow.

Weights, gradients and scores are by the name of the layer, in the shape of its weight.
"""

from collections.abc import Collection, Mapping
from copy import deepcopy

import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.methods.sparse.candidates import Shapes, kept_total, nested
from fedsim.methods.sparse.masks import Masks, Tensors, entry, keep_largest, kept
from fedsim.norms import NORM_LAYERS
from fedsim.norms.replace import replace_layers


def random_masks(shapes: Shapes, counts: Mapping[str, int], generator: torch.Generator) -> Masks:
    """So many weights of each layer, each set of them as likely. The generator and the masks are on the CPU."""
    scores = {
        layer: torch.rand(shape, generator=generator, dtype=torch.float64)  # in single precision many would be equal
        for layer, shape in shapes.items()
    }
    return keep_largest(scores, counts)


def magnitude_masks(weights: Tensors, counts: Mapping[str, int]) -> Masks:
    """Of each layer the weights of the largest absolute values."""
    return keep_largest({layer: weight.detach().abs() for layer, weight in weights.items()}, counts)


def nested_masks(masks: Masks, weights: Tensors, density: float) -> Masks:
    """The part of the masks that a smaller overall density keeps: of each layer the weights of the largest absolute
    values, in the proportions that the masks have."""
    counts = nested(kept(masks), {layer: mask.shape for layer, mask in masks.items()}, density)
    scores = {
        layer: weights[layer].detach().abs().where(mask.to(weights[layer].device), -1) for layer, mask in masks.items()
    }
    return keep_largest(scores, counts)


def snip_scores(weights: Tensors, gradients: Tensors) -> dict[str, torch.Tensor]:
    """|w * dL/dw|, the slope of the loss as a weight is taken away (SNIP, Lee et al., ICLR 2019, arXiv 1810.02340).

    The gradients are summed, or averaged, over the images before. The paper divides all scores by their sum, which
    changes no ranking.
    """
    return {layer: (weight.detach() * gradients[layer].to(weight.device)).abs() for layer, weight in weights.items()}


def global_masks(scores: Tensors, total: int) -> Masks:
    """The ``total`` largest scores of all layers together, of equal ones the first; but of each layer at least its
    largest, since a layer without weights lets nothing through.

    Errors: ``ValueError`` for a score that is not a number, or if ``total`` is less than one for each layer or more
    than all.
    """
    sizes = [score.numel() for score in scores.values()]
    flat = torch.cat([score.detach().flatten() for score in scores.values()])
    if flat.isnan().any():
        raise ValueError("a score is not a number")
    if not len(sizes) <= total <= len(flat):
        raise ValueError(f"{total} of {len(flat)} weights cannot be kept in {len(sizes)} layers")
    for part in flat.split(sizes):
        part[part.argmax()] = torch.inf
    threshold = flat.kthvalue(len(flat) - total + 1).values  # many times faster than sorting
    kept = flat > threshold
    equal = (flat == threshold).nonzero()[:, 0]
    kept[equal[: total - int(kept.sum())]] = True
    return {
        layer: part.view(score.shape) for (layer, score), part in zip(scores.items(), kept.split(sizes), strict=True)
    }


def synflow_scores(
    model: nn.Module, image_shape: tuple[int, int, int], layers: Collection[str]
) -> dict[str, torch.Tensor]:
    r"""The synaptic flow through each weight (SynFlow, Tanaka et al., NeurIPS 2020, arXiv 2006.05467).

    .. math:: w \, \partial R / \partial w, \quad
              R = \mathbb{1}^T \Big( \prod_l \lvert w^{(l)} \rvert \Big) \mathbb{1}

    R is the sum of what the network puts out for one image of ones, with absolute values for all its parameters and
    without its biases and norm layers. The model is left as it was.

    That is what the authors' code computes at initialization, where biases are zero and a BatchNorm that evaluates
    changes nothing but for its eps. Left out, layers that have been trained, or have no running statistics, change
    nothing either. The numbers are double, since the product of many layers may be too large for single precision.

    Errors: ``UserError`` for a network in which larger weights do not mean a larger output.
    """
    linear = _linearized(model)
    return _flow(linear, _weights(linear, layers), image_shape)


def synflow_masks(
    model: nn.Module, image_shape: tuple[int, int, int], layers: Collection[str], density: float, iterations: int = 100
) -> Masks:
    """What is left of these layers if the weights of the least ``synflow_scores`` go, of all layers together.

    After iteration k of K the density is density^(k/K), and scores are computed anew of what is left: so no layer
    loses all its weights before the others do.

    Errors: ``UserError`` as for ``synflow_scores``, and for a density or a number of iterations that is not possible.
    """
    if iterations < 1:
        raise UserError(f"strategy.iterations={iterations} is not possible: choose a whole number of at least 1.")
    linear = _linearized(model)
    weights = _weights(linear, layers)
    shapes = {layer: weight.shape for layer, weight in weights.items()}
    kept_total(shapes, density)  # refuses it before its roots are taken
    masks = {layer: torch.ones_like(weight, dtype=torch.bool) for layer, weight in weights.items()}
    for iteration in range(1, iterations + 1):
        scores = _flow(linear, weights, image_shape)
        # What is gone stays gone: where no flow is left, weights that remain have a score of zero too.
        scores = {layer: score.where(masks[layer], -1) for layer, score in scores.items()}
        masks = global_masks(scores, kept_total(shapes, density ** (iteration / iterations)))
        with torch.no_grad():
            for layer, weight in weights.items():
                weight.mul_(masks[layer])
    return masks


def _linearized(model: nn.Module) -> nn.Module:
    """A copy of which ReLU, pooling of maxima and all else see no negative number."""
    linear = replace_layers(deepcopy(model), NORM_LAYERS, lambda layer: nn.Identity())
    linear = linear.double().eval().requires_grad_(False)
    for name, parameter in linear.named_parameters():
        parameter.zero_() if name.rpartition(".")[2] == "bias" else parameter.abs_()
    return linear


def _weights(linear: nn.Module, layers: Collection[str]) -> dict[str, torch.Tensor]:
    parameters = dict(linear.named_parameters())
    return {layer: parameters[entry(layer)].requires_grad_() for layer in layers}


def _flow(linear: nn.Module, weights: Tensors, image_shape: tuple[int, int, int]) -> dict[str, torch.Tensor]:
    ones = torch.ones(1, *image_shape, dtype=torch.float64, device=next(iter(weights.values())).device)
    with torch.enable_grad():
        gradients = torch.autograd.grad(linear(ones).sum(), list(weights.values()), materialize_grads=True)
    scores = {
        layer: weight.detach() * gradient for (layer, weight), gradient in zip(weights.items(), gradients, strict=True)
    }
    if not all(score.isfinite().all() and (score >= 0).all() for score in scores.values()):
        raise UserError(
            "strategy.criterion=synflow is not possible with this network, in which larger weights do not mean a "
            "larger output: choose another criterion, or another norm or head."
        )
    return scores
