"""``precision=bf16``: local training with bfloat16 in the matrix products (mixed precision, arXiv 1710.03740).

Parameters, gradients, optimizer states and what is sent stay in float32, as do all evaluations: only the network's
forward pass in training, and the backward pass that follows from it, compute convolutions and linear layers in
bfloat16, by ``torch.autocast``. bfloat16 has the range of float32, so that losses need no scaling.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import BatchNorm1d, BatchNorm2d

from fedsim.models.classifier import ends_of
from fedsim.norms.registry import norm_layers

PRECISIONS = ("float32", "bf16")
"""The values of ``precision``."""
FLOAT32_INSIDE = (BatchNorm1d, BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
"""Layers of torch that take bfloat16 and compute their statistics in float32 themselves."""


@contextmanager
def training_in(precision: str, model: nn.Module) -> Iterator[None]:
    """Let the model compute in this precision inside the block, as do copies that are made of it there.

    Its classifier and its norm layers, but for those of ``FLOAT32_INSIDE``, get float32 and compute in it: logits,
    features and running statistics are float32. A method that calls other layers by themselves has them in float32.

    Args:
        precision: One of ``PRECISIONS``.
        model: The network, on its device.
    """
    if precision == "float32":
        yield
        return
    device = next(model.parameters()).device.type
    exact = {
        layer for layer in model.modules() if isinstance(layer, norm_layers()) and type(layer) not in FLOAT32_INSIDE
    }
    exact |= {model.get_submodule(name) for name in ends_of(model).last}
    hooks = [*_Region(device, enabled=True).around(model)]
    for layer in exact:
        hooks += _Region(device, enabled=False).around(layer)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Region:
    """Hooks that let a module compute with autocast, or without it and on float32."""

    def __init__(self, device: str, *, enabled: bool) -> None:
        self._device, self._enabled = device, enabled
        self._entered: list[torch.autocast] = []

    def around(self, module: nn.Module) -> list[Any]:
        """Register the hooks and return their handles."""
        return [
            module.register_forward_pre_hook(self._enter),
            module.register_forward_hook(self._leave, always_call=True),
        ]

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        region = torch.autocast(self._device, dtype=torch.bfloat16, enabled=self._enabled)
        region.__enter__()
        self._entered.append(region)
        if self._enabled:
            return None
        return tuple(each.float() if _is_bf16(each) else each for each in inputs)

    def _leave(self, module: nn.Module, inputs: object, output: object) -> None:
        self._entered.pop().__exit__(None, None, None)


def _is_bf16(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype is torch.bfloat16
