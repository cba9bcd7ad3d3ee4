"""Criteria for the initial masks: random, magnitude, SNIP and SynFlow.

Weights, gradients and scores are mappings from the name of a layer to tensors in the shape of its weight.
"""

from collections.abc import Collection, Mapping
from copy import deepcopy

import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.methods.sparse.candidates import Shapes, kept_total, nested
from fedsim.methods.sparse.masks import Masks, Tensors, entry, keep_largest, kept
from fedsim.norms import norm_layers
from fedsim.norms.replace import replace_layers


def random_masks(shapes: Shapes, counts: Mapping[str, int], generator: torch.Generator) -> Masks:
    """Return masks of uniformly drawn weights, ``counts`` in each layer. The generator and the masks are on the CPU."""
    scores = {
        layer: torch.rand(shape, generator=generator, dtype=torch.float64)  # many float32 numbers would be equal
        for layer, shape in shapes.items()
    }
    return keep_largest(scores, counts)


def magnitude_masks(weights: Tensors, counts: Mapping[str, int]) -> Masks:
    """Return masks of the weights of largest absolute value in each layer."""
    return keep_largest({layer: weight.detach().abs() for layer, weight in weights.items()}, counts)


def nested_masks(masks: Masks, weights: Tensors, density: float) -> Masks:
    """Return masks of a smaller overall density within ``masks``: the largest absolute values of each layer.

    The numbers of active weights of the layers stay in proportion.
    """
    counts = nested(kept(masks), {layer: mask.shape for layer, mask in masks.items()}, density)
    scores = {
        layer: weights[layer].detach().abs().where(mask.to(weights[layer].device), -1) for layer, mask in masks.items()
    }
    return keep_largest(scores, counts)


def snip_scores(weights: Tensors, gradients: Tensors) -> dict[str, torch.Tensor]:
    """Return |w * dL/dw|, the sensitivity of the loss to removing a weight (SNIP, Lee et al., ICLR 2019,
    arXiv 1810.02340).

    The gradients are those of the sum or the mean over images. The paper divides all scores by their sum, which does
    not change their ranking.
    """
    return {layer: (weight.detach() * gradients[layer].to(weight.device)).abs() for layer, weight in weights.items()}


def global_masks(scores: Tensors, total: int) -> Masks:
    """Return masks of the ``total`` largest scores of all layers together; of equal scores the first win.

    The largest score of each layer is always included, since a layer without weights would block the network.

    Raises:
        ValueError: If a score is NaN, or ``total`` is less than one for each layer or more than all.
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
    r"""Return the synaptic flow through each weight (SynFlow, Tanaka et al., NeurIPS 2020, arXiv 2006.05467).

    .. math:: w \, \partial R / \partial w, \quad
              R = \mathbb{1}^T \Big( \prod_l \lvert w^{(l)} \rvert \Big) \mathbb{1}

    R is the sum of the network's outputs for one image of ones, with all parameters replaced by their absolute values
    and without biases and norm layers. The model itself is not changed.

    The authors' code computes the same at initialization, where biases are zero and a BatchNorm in eval mode is the
    identity except for its eps. Since norm layers are left out here, trained ones and those without running statistics
    have no effect either. Numbers are in float64, since the product of many layers may overflow float32.

    Raises:
        UserError: If larger weights do not lead to a larger output in this network.
    """
    linear = _linearized(model)
    return _flow(linear, _weights(linear, layers), image_shape)


def synflow_masks(
    model: nn.Module, image_shape: tuple[int, int, int], layers: Collection[str], density: float, iterations: int = 100
) -> Masks:
    """Return the masks after iterative pruning by ``synflow_scores`` over all of these layers together.

    After iteration k of K the density is density^(k/K), and the scores of the remaining weights are computed again:
    therefore no layer loses all its weights before the others do.

    Raises:
        UserError: As for ``synflow_scores``, and if the density or the number of iterations is not possible.
    """
    if iterations < 1:
        raise UserError(f"strategy.iterations={iterations} is not possible: choose a whole number of at least 1.")
    linear = _linearized(model)
    weights = _weights(linear, layers)
    shapes = {layer: weight.shape for layer, weight in weights.items()}
    kept_total(shapes, density)  # raises before roots of the density are taken
    masks = {layer: torch.ones_like(weight, dtype=torch.bool) for layer, weight in weights.items()}
    for iteration in range(1, iterations + 1):
        scores = _flow(linear, weights, image_shape)
        # Pruned weights stay pruned, also where no flow is left and the active weights have a score of zero, too.
        scores = {layer: score.where(masks[layer], -1) for layer, score in scores.items()}
        masks = global_masks(scores, kept_total(shapes, density ** (iteration / iterations)))
        with torch.no_grad():
            for layer, weight in weights.items():
                weight.mul_(masks[layer])
    return masks


def _linearized(model: nn.Module) -> nn.Module:
    """Return a copy in which no activation is negative, so that ReLU and max pooling act linearly.

    It is in float64 and eval mode, without norm layers, with zero biases and absolute values of all other parameters.
    """
    linear = replace_layers(deepcopy(model), norm_layers(), lambda layer: nn.Identity())
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
