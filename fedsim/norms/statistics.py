"""Replacements for BatchNorm's running statistics, in training and at evaluation; the stored ones do not change.

Each function applies to every BatchNorm of a model, found by type, also if ``model.train()`` or ``model.eval()`` is
called inside the block.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.norms.moments import Statistics, moments, precise

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]


def statistics_entries(model: nn.Module) -> list[str]:
    """Return the names of running means and variances in the model's state."""
    return [
        f"{name}.{statistic}" if name else statistic
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats
        for statistic in ("running_mean", "running_var")
    ]


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Normalize every batch by its own mean and biased variance inside the block, also in eval mode."""
    kept = [(layer, _buffers(layer)) for layer in batch_norms(model)]
    for layer, _ in kept:
        # Without statistics torch uses the batch's; without the counter training does not count the batch.
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None
    try:
        yield
    finally:
        for layer, buffers in kept:
            _set_buffers(layer, buffers)


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Normalize by the running statistics inside the block, also in train mode, without updating them (FixBN).

    Gamma and beta are trained. The modes of the layers do not change.
    """
    modes: dict[nn.Module, bool] = {}

    def to_evaluation(layer: nn.Module, _: object) -> None:
        modes[layer] = layer.training
        layer.eval()

    def restore(layer: nn.Module, _: object, __: object) -> None:
        layer.train(modes[layer])

    # A training loop calls model.train() after this, so the layers are in eval mode during each call alone.
    with ExitStack() as frozen:
        for layer in batch_norms(model):
            frozen.callback(layer.register_forward_pre_hook(to_evaluation).remove)
            frozen.callback(layer.register_forward_hook(restore, always_call=True).remove)
        yield


@contextmanager
def reestimated_statistics(model: nn.Module, batches: Iterable[torch.Tensor]) -> Iterator[None]:
    """Set running statistics inside the block to those of these batches of images, all with the same weight."""
    layers = batch_norms(model)
    kept = [(layer, layer.momentum, layer.track_running_stats, _buffers(layer)) for layer in layers]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # dropout must not affect the statistics
    for layer in layers:
        layer.momentum, layer.track_running_stats = None, True  # no momentum: torch computes the mean over batches
        layer.running_mean = torch.zeros_like(layer.running_mean)  # type: ignore[arg-type]
        layer.running_var = torch.ones_like(layer.running_var)  # type: ignore[arg-type]
        layer.num_batches_tracked = torch.zeros((), dtype=torch.long, device=layer.running_var.device)
        layer.train()
    try:
        try:
            with torch.no_grad():
                for images in batches:
                    model(images)
        finally:
            for module, training in modes:
                module.training = training
        yield
    finally:
        for layer, momentum, tracked, buffers in kept:
            layer.momentum, layer.track_running_stats = momentum, tracked
            _set_buffers(layer, buffers)


def _buffers(layer: _BatchNorm) -> dict[str, torch.Tensor | None]:
    return {name: getattr(layer, name) for name in BUFFERS}


def _set_buffers(layer: _BatchNorm, buffers: dict[str, torch.Tensor | None]) -> None:
    for name, tensor in buffers.items():
        setattr(layer, name, tensor)


def forget_running_statistics(model: nn.Module) -> nn.Module:
    """Remove the running statistics of every BatchNorm from the state, in place, and return the model.

    They can then be neither shared nor personal. The buffers still exist, outside the ``state_dict``, for re-estimated
    statistics; otherwise they are not used, since such layers normalize by the batch in training and evaluation.
    """
    for layer in batch_norms(model):
        layer.track_running_stats = False
        for name in ("running_mean", "running_var"):
            layer.register_buffer(name, getattr(layer, name), persistent=False)
        layer.register_buffer("num_batches_tracked", None)
    return model


@contextmanager
def averages_of_batches(model: nn.Module) -> Iterator[None]:
    """Set running statistics, at the end of the block, to averages over the batches that passed inside it.

    Each batch contributes its mean and biased variance with the same weight. A layer that no batch has passed keeps its
    statistics.
    """
    sums: dict[nn.Module, Statistics] = {layer: {} for layer in batch_norms(model) if layer.track_running_stats}
    counts = dict.fromkeys(sums, 0)

    def add(layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        for name, value in moments(precise(args[0].detach())).items():
            sums[layer][name] = sums[layer].get(name, 0) + value.double()
        counts[layer] += 1

    hooks = [layer.register_forward_pre_hook(add) for layer in sums]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for layer, totals in sums.items():
        for name, total in totals.items():
            layer.get_buffer(name).copy_(total / counts[layer])
