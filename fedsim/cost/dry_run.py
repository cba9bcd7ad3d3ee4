"""Dry runs that count the layers of a model, their outputs, and the tensors that autograd saves."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from fedsim.cost.account import LayerCost, ModelCost
from fedsim.cost.flop_counter import FlopCounter

WITH_WEIGHTS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def model_cost(model: nn.Module, image_shape: tuple[int, int, int]) -> ModelCost:
    """Return the counts of a model from two dry runs, on two and on three images of zeros.

    The model is in eval mode meanwhile and not changed. Two images are the minimum for a BatchNorm without running
    statistics; the difference between two and three images is the memory that grows with the batch. The tensors that
    are saved for the backward pass are those that autograd reports.
    """
    few, many = 2, 3
    with _evaluating(model):
        outputs, flops, bytes_of_few = _dry_run(model, image_shape, few)
        _, _, bytes_of_many = _dry_run(model, image_shape, many)
    layers: dict[str, LayerCost] = {}
    seen: set[nn.Parameter] = set()  # a shared parameter is counted in the first module
    for name, module in _with_parameters(model):
        own = {key: value for key, value in module.named_parameters(recurse=False) if value not in seen}
        seen.update(own.values())
        weight = own.pop("weight", None) if isinstance(module, WITH_WEIGHTS) else None
        layers[name] = LayerCost(
            weights=0 if weight is None else weight.numel(),
            weights_trained=weight is not None and weight.requires_grad,
            others=sum(value.numel() for value in own.values()),
            others_trained=sum(value.numel() for value in own.values() if value.requires_grad),
            positions=0 if weight is None else outputs.get(name, 0) // len(weight) // few,
            outputs=outputs.get(name, 0) // few,
        )
    per_image = (bytes_of_many - bytes_of_few) // (many - few)
    return ModelCost(
        layers=layers,
        elsewhere=flops // few - sum(layer.flops(layer.weights) for layer in layers.values()),
        buffers=sum(buffer.nbytes for buffer in model.buffers()),
        activations=per_image,
        intermediates=bytes_of_few - few * per_image,
    )


def _with_parameters(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if list(module.parameters(recurse=False))]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _dry_run(model: nn.Module, image_shape: tuple[int, int, int], images: int) -> tuple[dict[str, int], int, int]:
    """Return, for the whole batch, the size of each module's output, the FLOPs, and the bytes that autograd saves."""
    outputs: dict[str, int] = {}
    kept: list[torch.Tensor] = []  # referenced until they are counted, so that no address is used twice

    def count(name: str, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):  # a module that is used twice counts twice
            outputs[name] = outputs.get(name, 0) + output.numel()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    hooks = [module.register_forward_hook(partial(count, name)) for name, module in _with_parameters(model)]
    first = next(model.parameters())
    zeros = torch.zeros(images, *image_shape, dtype=first.dtype, device=first.device)
    try:
        with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor), FlopCounter() as flops:
            model(zeros)
    finally:
        for hook in hooks:
            hook.remove()
    memory = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    for held in (*model.parameters(), *model.buffers()):
        memory.pop(held.untyped_storage().data_ptr(), None)
    return outputs, flops.total, sum(memory.values())
