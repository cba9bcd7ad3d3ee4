"""Parts of a model that are to stay as they are for a while."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

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
