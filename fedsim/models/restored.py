"""Context managers that restore parts of a model."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def parameters_fixed(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Freeze these parameters inside the block, which also saves their part of the backward pass."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def buffers_restored(model: nn.Module) -> Iterator[None]:
    """Restore all buffers of the model, such as running statistics, after the block."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Allow forward passes of a model on the CPU inside the block, in any mode, without side effects; no gradients.

    The buffers, the mode of each module, and the global generators of torch (on the CPU), numpy and Python are restored
    after the block.
    """
    modes = [(module, module.training) for module in model.modules()]
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), buffers_restored(model):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        for module, training in modes:
            module.training = training


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Put all modules in evaluation mode inside the block, and restore the mode of each after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
