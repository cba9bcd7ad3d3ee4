"""Statistics of a network's own, for every layer that has running ones: what it is judged by before it has trained.

``statistics.py`` re-estimates those of BatchNorm, which can also travel. Layers of other types make theirs slowly, over
the batches of training; here each gets at once what its running statistics are running towards.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from fedsim.norms.moments import OfABatch, Statistics
from fedsim.norms.registry import LAYERS
from fedsim.norms.statistics import batch_norms, reestimated_statistics

OF_A_BATCH = {layer.type: layer.of_a_batch for layer in LAYERS if layer.of_a_batch is not None}
"""What a batch lets the running statistics move towards that evaluation uses, by the type of the layer."""


def has_statistics(model: nn.Module) -> bool:
    """Whether there is a layer that ``own_statistics`` would adapt."""
    return bool(batch_norms(model) or _others(model))


@contextmanager
def own_statistics(model: nn.Module, batches: Iterable[torch.Tensor]) -> Iterator[None]:
    """Every layer's running statistics are those of these batches of images alone, each batch counting the same.

    While they are found each batch is normalized by its own. Weights, modes and what the layers had before are there
    again behind it, and so are BatchNorms without running statistics, which normalize by those of the batches
    meanwhile.
    """
    others = _others(model)
    kept = [(buffer, buffer.clone()) for layer in others for buffer in layer.buffers()]
    sums: dict[nn.Module, Statistics] = {layer: {} for layer in others}
    seen = 0

    def counted() -> Iterator[torch.Tensor]:
        nonlocal seen
        for images in batches:
            seen += 1
            yield images

    def measure(layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        """Just before the layer normalizes, with what it then normalizes by."""
        for name, value in others[layer](args[0]).items():
            layer.get_buffer(name).copy_(value)
            sums[layer][name] = sums[layer].get(name, torch.zeros_like(value)) + value

    try:
        with ExitStack() as measuring:
            for layer in others:
                measuring.callback(layer.register_forward_pre_hook(measure).remove)
            with reestimated_statistics(model, counted()):
                measuring.close()
                for layer, totals in sums.items():
                    for name, total in totals.items():
                        layer.get_buffer(name).copy_(total / seen)
                yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


def _others(model: nn.Module) -> dict[nn.Module, OfABatch]:
    return {
        layer: of_a_batch
        for layer in model.modules()
        for type_, of_a_batch in OF_A_BATCH.items()
        if isinstance(layer, type_) and not (isinstance(layer, _InstanceNorm) and not layer.track_running_stats)
    }
