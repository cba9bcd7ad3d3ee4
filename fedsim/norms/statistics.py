"""What BatchNorm's running statistics are replaced by, in training and at evaluation, without touching the stored ones.

Each function works on every BatchNorm of a model, found by type, and whatever calls ``model.train()`` or
``model.eval()`` meanwhile.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]


def statistics_entries(model: nn.Module) -> list[str]:
    """The names that running means and variances have in the model's state."""
    return [
        f"{name}.{statistic}" if name else statistic
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats
        for statistic in ("running_mean", "running_var")
    ]


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Every batch is normalized by its own mean and biased variance, in evaluation too."""
    kept = [(layer, layer.running_mean, layer.running_var) for layer in batch_norms(model)]
    for layer, _, _ in kept:
        layer.running_mean = layer.running_var = None  # without them torch takes the batch's
    try:
        yield
    finally:
        for layer, mean, variance in kept:
            layer.running_mean, layer.running_var = mean, variance


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """The running statistics are used in training too and do not change; gamma and beta are trained (FixBN)."""
    # A training loop calls model.train() after this, so the layers are switched just before they compute.
    hooks = [layer.register_forward_pre_hook(_to_evaluation) for layer in batch_norms(model)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _to_evaluation(layer: nn.Module, _: object) -> None:
    layer.eval()


@contextmanager
def reestimated_statistics(model: nn.Module, batches: Iterable[torch.Tensor]) -> Iterator[None]:
    """Running statistics from these batches of images alone, each batch counting the same; the weights stay."""
    layers = batch_norms(model)
    kept = [(layer, layer.momentum, layer.track_running_stats, _buffers(layer)) for layer in layers]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # dropout must not disturb the statistics
    for layer in layers:
        layer.momentum, layer.track_running_stats = None, True  # no momentum: torch takes the plain mean of the batches
        layer.running_mean = torch.zeros_like(layer.running_mean)  # type: ignore[arg-type]
        layer.running_var = torch.ones_like(layer.running_var)  # type: ignore[arg-type]
        layer.num_batches_tracked = torch.zeros((), dtype=torch.long, device=layer.running_var.device)
        layer.train()
    try:
        with torch.no_grad():
            for images in batches:
                model(images)
        for module, training in modes:
            module.training = training
        yield
    finally:
        for layer, momentum, tracked, buffers in kept:
            layer.momentum, layer.track_running_stats = momentum, tracked
            for name, tensor in buffers.items():
                setattr(layer, name, tensor)


def _buffers(layer: _BatchNorm) -> dict[str, torch.Tensor | None]:
    return {name: getattr(layer, name) for name in BUFFERS}


def forget_running_statistics(model: nn.Module) -> nn.Module:
    """BatchNorm that keeps no running statistics, so that none can travel or stay on a client.

    The buffers are still there, outside the ``state_dict``, for statistics that are re-estimated; they are never used
    otherwise, since such layers normalize by the batch in training and evaluation.
    """
    for layer in batch_norms(model):
        layer.track_running_stats = False
        for name in ("running_mean", "running_var"):
            layer.register_buffer(name, getattr(layer, name), persistent=False)
        layer.register_buffer("num_batches_tracked", None)
    return model
