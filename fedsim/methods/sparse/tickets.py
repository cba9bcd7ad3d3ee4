"""Lottery tickets: masks that shrink by a share of each layer's smallest weights, one pruning after the other."""

from collections.abc import Collection

import torch

from fedsim.methods.reply_records import Question, ReplyFault, Tensors, refuse_other_names
from fedsim.methods.sparse.masks import Masks, decode, entry, kept


def without_percentile(weights: Tensors, masks: Masks, share: float) -> Masks:
    """Return the masks without the weights of each layer whose absolute values are below a quantile of the active ones.

    The quantile is interpolated linearly, as numpy's percentile, so that about ``share`` of the active weights of each
    layer are pruned. A weight that has become zero counts as one that is not active, as in LotteryFL's code.

    Args:
        weights: The weights by layer.
        masks: The masks by layer.
        share: The share that is pruned, in (0, 1).
    """
    smaller: Masks = {}
    for layer, mask in masks.items():
        sizes = weights[layer].detach().abs()
        alive = sizes[mask & (sizes > 0)].double().sort().values
        if not len(alive):
            smaller[layer] = mask
            continue
        place = share * (len(alive) - 1)
        below, above = alive[int(place)], alive[min(int(place) + 1, len(alive) - 1)]
        smaller[layer] = mask & (sizes.double() >= below + (place - int(place)) * (above - below))
    return smaller


def check_tickets(tensors: Tensors, question: Question, layers: Collection[str]) -> None:
    """Refuse masks of only some of the layers, without any weight, or with more of them than were sent.

    Raises:
        ReplyFault: If there is one; the message names the layer.
        Exception: If a mask cannot be decoded, whatever decoding raises.
    """
    if not tensors:
        return
    refuse_other_names(tensors, layers, "masks")
    masks = decode(tensors, {layer: question.initial[entry(layer)].shape for layer in layers})
    for layer, count in kept(masks).items():
        most = question.sent[entry(layer)].numel()
        if not 0 < count <= most:
            raise ReplyFault(f"its mask of {layer} keeps {count} weights of {most}")


def all_ones(shapes: dict[str, torch.Size]) -> Masks:
    """Return masks in which every weight is active."""
    return {layer: torch.ones(shape, dtype=torch.bool) for layer, shape in shapes.items()}
