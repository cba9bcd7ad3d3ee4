"""Parts of a model that are to stay as they are for a while."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def parameters_fixed(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """No gradient is computed for these, which also saves the pass back through them."""
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
    """Running statistics, of whatever layer, are after the block what they were before."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Let a model on the CPU be tried inside the block, in training or evaluation, as if nothing had happened.

    Its buffers, the mode of each of its modules, and the global generators of torch (on the CPU), numpy and Python are
    after it what they were before.
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
