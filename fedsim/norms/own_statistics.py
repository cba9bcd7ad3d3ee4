"""Statistics for all layers with running statistics, estimated on images of a client before training.

``statistics.py`` re-estimates the statistics of BatchNorm. Layers of other types update theirs slowly, over the batches
of training; here each layer gets directly the values towards which its running statistics would converge.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from fedsim.norms.moments import OfABatch, Statistics
from fedsim.norms.registry import LAYERS
from fedsim.norms.statistics import batch_norms, reestimated_statistics


def has_statistics(model: nn.Module) -> bool:
    """Return whether there is a layer that ``own_statistics`` would change."""
    return bool(batch_norms(model) or _others(model))


@contextmanager
def own_statistics(model: nn.Module, batches: Iterable[torch.Tensor]) -> Iterator[None]:
    """Set every layer's running statistics to those of these batches of images inside the block.

    Every batch has the same weight, and so has every call of a layer that is called several times in a pass. During the
    estimation each batch is normalized by its own statistics. Inside the block BatchNorms without running statistics
    normalize by the estimated ones, too. Buffers and options of the layers are restored after the block; weights and
    modes do not change.
    """
    others = _others(model)
    kept = [(buffer, buffer.clone()) for layer in others for buffer in layer.buffers()]
    sums: dict[nn.Module, Statistics] = {layer: {} for layer in others}
    counts = dict.fromkeys(others, 0)

    def measure(layer: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        """Add the batch's statistics to the sums, and let the layer normalize by them; a forward pre-hook."""
        for name, value in others[layer](args[0]).items():
            layer.get_buffer(name).copy_(value)
            sums[layer][name] = sums[layer].get(name, torch.zeros_like(value)) + value
        counts[layer] += 1

    try:
        with ExitStack() as measuring:
            for layer in others:
                measuring.callback(layer.register_forward_pre_hook(measure).remove)
            with reestimated_statistics(model, batches):
                measuring.close()
                for layer, totals in sums.items():
                    for name, total in totals.items():
                        layer.get_buffer(name).copy_(total / counts[layer])
                yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


def _others(model: nn.Module) -> dict[nn.Module, OfABatch]:
    return {
        layer: known.of_a_batch
        for layer in model.modules()
        for known in LAYERS
        if known.of_a_batch is not None and isinstance(layer, known.types)
        if not (isinstance(layer, _InstanceNorm) and not layer.track_running_stats)
    }
