r"""Adjustment of masks during training: when, in which layers and how many weights are pruned and activated.

This is FedTiny's progressive pruning (Huang et al., ICDCS 2023, arXiv 2212.01977), whose schedule FedDST uses, too
(Bibikar et al., AAAI 2022, arXiv 2112.09824), and PruneFL's competition between small active weights and inactive
weights (Jiang et al., TNNLS 2022, arXiv 1909.12326).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from fedsim.core.errors import UserError
from fedsim.methods.sparse.criteria import global_masks
from fedsim.methods.sparse.masks import Masks, Tensors, kept


def check_rounds(**options: int) -> None:
    """Refuse options of a strategy, numbers of rounds, that are below 1.

    Raises:
        UserError: If one is below 1.
    """
    for name, value in options.items():
        if value < 1:
            raise UserError(f"strategy.{name}={value} is not possible: choose a whole number of at least 1.")


@dataclass(frozen=True)
class Schedule:
    r"""A schedule of adjustments: every ``interval`` rounds, before ``stop_round``.

    In round t, :math:`a_t = \lceil \tfrac{rate}{2} (1 + \cos(\pi t / R_{stop})) \, n \rceil` of a layer's n active
    weights are replaced, but never more than are inactive; at ``stop_round`` the share would be zero. A method may
    adjust one block of layers at a time, in the order from the output to the input.

    Raises:
        UserError: If a number of rounds is below 1 or ``rate`` is not in (0, 1].
    """

    interval: int
    stop_round: int
    rate: float

    def __post_init__(self) -> None:
        check_rounds(interval=self.interval, stop_round=self.stop_round)
        if not 0 < self.rate <= 1:
            raise UserError(f"strategy.rate={self.rate} is not possible: choose a number above 0 and at most 1.")

    def due(self, round: int) -> bool:
        return round % self.interval == 0 and round < self.stop_round

    def block(self, round: int, blocks: int) -> int:
        """Return the index of the block that is adjusted in a round, of ``blocks`` counted from the input."""
        return blocks - 1 - (round // self.interval - 1) % blocks

    def replaced(self, round: int, active: int, inactive: int) -> int:
        share = self.rate / 2 * (1 + math.cos(math.pi * round / self.stop_round))
        return min(math.ceil(share * active), inactive)

    def counts(self, round: int, masks: Masks) -> dict[str, int]:
        """Return the number of weights to replace by layer, without layers where it is zero."""
        counts = {
            layer: self.replaced(round, active, masks[layer].numel() - active) for layer, active in kept(masks).items()
        }
        return {layer: count for layer, count in counts.items() if count}


def blocks_of(layers: Sequence[str], blocks: int | Sequence[str] | None) -> list[list[str]]:
    """Divide the layers into blocks, from input to output.

    Args:
        layers: Names of the layers, from input to output.
        blocks: The number of blocks of equal numbers of layers, or the prefixes of the names of the layers in each
            block. With ``None`` the blocks are the first parts of the names if there are three or more different ones,
            which are the stages of a residual network; else there are five blocks, or as many as layers.

    Raises:
        UserError: If the number is below 1 or above the number of layers, no layer has one of the prefixes, or a layer
            has none of them.
    """
    if blocks is None:
        stages = list(dict.fromkeys(layer.partition(".")[0] for layer in layers))
        blocks = stages if len(stages) >= 3 else min(5, len(layers))
    if isinstance(blocks, int):
        if not 1 <= blocks <= len(layers):
            raise UserError(
                f"strategy.blocks={blocks} is not possible: choose a whole number from 1 to {len(layers)}, the layers "
                "that are pruned, or the beginnings of their names."
            )
        borders = [len(layers) * number // blocks for number in range(blocks + 1)]
        return [list(layers[start:end]) for start, end in pairwise(borders)]
    groups: list[list[str]] = [
        [layer for layer in layers if layer == name or layer.startswith(f"{name}.")] for name in blocks
    ]
    for name, group in zip(blocks, groups, strict=True):
        if not group:
            raise UserError(f"strategy.blocks: no layer that is pruned is called {name}: choose from {list(layers)}.")
    left = [layer for layer in layers if not any(layer in group for group in groups)]
    if left:
        raise UserError(f"strategy.blocks={list(blocks)} leaves out {left[0]}: name a block for every layer.")
    return groups


def replace_weights(
    weight: torch.Tensor, mask: torch.Tensor, gradient: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight and the mask after ``count`` weights were pruned and as many activated.

    The active weights with the smallest absolute values are pruned; the inactive ones with the largest absolute
    gradients are activated, with the value zero. Both are chosen by the mask before, so the order does not matter.
    """
    mask, gradient = mask.to(weight.device), gradient.to(weight.device)
    left = without_smallest(weight, mask, count)
    grown = gradient.abs().where(~mask, -1).flatten().argsort(descending=True, stable=True)[:count]
    return weight.where(left, 0), with_places(left, grown)


def without_smallest(weight: torch.Tensor, mask: torch.Tensor, count: int) -> torch.Tensor:
    """Return the mask without the ``count`` active weights of smallest absolute value; of equal ones the first go."""
    smallest = weight.detach().abs().where(mask, torch.inf).flatten().argsort(stable=True)[:count]
    return mask.flatten().index_fill(0, smallest, False).view(mask.shape)


def with_places(mask: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the mask with further active weights, at these indices of the flattened weight."""
    return mask.flatten().index_fill(0, places.long(), True).view(mask.shape)


def contested_masks(masks: Masks, weights: Tensors, scores: Tensors, share: float) -> Masks:
    """Return masks with the same total number of active weights, in which small active weights may be replaced.

    Of a layer's n active weights the ``int(share * n)`` smallest in absolute value may be pruned, except those that
    equal the next larger one; the others stay. These candidates and all inactive weights, of all layers together,
    compete for the remaining places by their scores, in the shape of the weight each; of equal scores the first wins.
    In a layer that would lose all its weights the one with the largest score stays active.

    This is PruneFL's rule as in its authors' code (``process_layer`` and ``architecture_search``), where the search
    ends at a fixed number of weights and all weights have the same time cost.

    Raises:
        ValueError: If a score is NaN.
    """
    staying = {layer: mask.to(scores[layer].device) for layer, mask in masks.items()}
    for layer, mask in staying.items():
        sizes = weights[layer].detach().abs().to(mask.device)
        ordered = sizes[mask].sort().values
        count = int(share * len(ordered))
        staying[layer] = mask & (sizes >= ordered[count]) if count < len(ordered) else torch.zeros_like(mask)
    chosen = {layer: scores[layer].masked_fill(mask, torch.inf) for layer, mask in staying.items()}
    return global_masks(chosen, sum(kept(masks).values()))
