"""BatchNorm by statistics of all clients' batches, which are put together layer by layer."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.norms.moments import precise
from fedsim.norms.replace import activated
from fedsim.norms.shapes import all_but_channels, per_channel

MEAN, VARIANCE = "/mean", "/variance"
"""Suffixes of a layer's name: its global statistics, or a client's own part of them."""
MEAN_GRADIENT, VARIANCE_GRADIENT = "/mean gradient", "/variance gradient"
"""Suffixes: the gradients of the federation's loss by its global statistics."""
Tensors = Mapping[str, torch.Tensor]


def named_batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Return the BatchNorm layers of the model by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}


@contextmanager
def synchronized(model: nn.Module, known: Tensors) -> Iterator[dict[str, torch.Tensor]]:
    r"""Let BatchNorm layers normalize by the global statistics that are ``known``, inside the block.

    Everything else is as at evaluation, and running statistics do not change. A layer whose statistics are not both
    known normalizes by its running ones.

    Yields:
        A dictionary with the client's own parts of the global statistics, with gradients: under NAME/mean the mean
        (C,) of a layer's input and, where the global mean :math:`\mu` is known, under NAME/variance the mean of
        :math:`(x - \mu)^2`.
    """
    own: dict[str, torch.Tensor] = {}
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    hooks = []
    for name, layer in named_batch_norms(model).items():

        def replace(layer: nn.Module, args: tuple[torch.Tensor, ...], _: object, name: str = name) -> object:
            assert isinstance(layer, _BatchNorm)
            input, over = precise(args[0]), all_but_channels(args[0])
            own[name + MEAN] = input.mean(over)
            if name + MEAN not in known:
                return None
            centred = input - per_channel(known[name + MEAN], input)
            own[name + VARIANCE] = centred.square().mean(over)
            if name + VARIANCE not in known:
                return None
            output = centred * per_channel(torch.rsqrt(known[name + VARIANCE] + layer.eps), input)
            if layer.weight is not None:
                shift = 0 if layer.bias is None else per_channel(layer.bias, input)
                output = output * per_channel(layer.weight, input) + shift
            return activated(layer, output.to(args[0].dtype))

        hooks.append(layer.register_forward_hook(replace))
    try:
        yield own
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training


def through_statistics(own: Tensors, known: Tensors) -> torch.Tensor:
    r"""Return the term whose gradient is that part of the federation's that goes through global statistics.

    .. math:: \sum_l \langle \partial L / \partial \mu_l, m_l \rangle + \langle \partial L / \partial \sigma_l^2, s_l
        \rangle

    over the layers l whose gradients are known, for a client's own parts m and s of the statistics. With weights
    :math:`p_k` of clients, for which :math:`\mu = \sum_k p_k m_k`, the same average of the gradients of all clients'
    losses with this term is the gradient of :math:`L = \sum_k p_k L_k`.
    """
    terms = [
        (known[name + gradient] * own[name + kind]).sum()
        for kind, gradient in ((MEAN, MEAN_GRADIENT), (VARIANCE, VARIANCE_GRADIENT))
        for name in (each.removesuffix(gradient) for each in known if each.endswith(gradient))
    ]
    return torch.stack(terms).sum() if terms else torch.zeros(())
