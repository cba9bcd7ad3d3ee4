r"""When, where and how many weights change places: FedTiny's progressive pruning (Huang et al., ICDCS 2023, arXiv
2212.01977), whose shares over the rounds are also those of FedDST (Bibikar et al., AAAI 2022, arXiv 2112.09824), and
PruneFL's choice among weights that may go and weights that are not there (Jiang et al., TNNLS 2022, arXiv 1909.12326).
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
    """Errors: ``UserError`` for one that is below 1."""
    for name, value in options.items():
        if value < 1:
            raise UserError(f"strategy.{name}={value} is not possible: choose a whole number of at least 1.")


@dataclass(frozen=True)
class Schedule:
    r"""Every ``interval`` rounds up to ``stop_round``; where a method adjusts one block of layers at a time, from the
    output to the input.

    In round t, :math:`a_t = \lceil \tfrac{rate}{2} (1 + \cos(\pi t / R_{stop})) \, n \rceil` of a layer's n active
    weights are replaced, but never more than are inactive; at ``stop_round`` the share is zero.
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
        """Which of so many blocks, counted from the input, is due."""
        return blocks - 1 - (round // self.interval - 1) % blocks

    def replaced(self, round: int, active: int, inactive: int) -> int:
        share = self.rate / 2 * (1 + math.cos(math.pi * round / self.stop_round))
        return min(math.ceil(share * active), inactive)

    def counts(self, round: int, masks: Masks) -> dict[str, int]:
        """How many are replaced in each layer, without those where none are."""
        counts = {
            layer: self.replaced(round, active, masks[layer].numel() - active) for layer, active in kept(masks).items()
        }
        return {layer: count for layer, count in counts.items() if count}


def blocks_of(layers: Sequence[str], blocks: int | Sequence[str] | None) -> list[list[str]]:
    """The layers, from input to output, in so many groups of equal numbers, or by the beginnings of their names.

    With ``None`` by the first parts of their names if there are three or more, which are the stages of a residual
    network; else in five groups, or as many as there are layers.

    Errors: ``UserError`` for fewer than one block or more blocks than layers, for a beginning that no layer has, or a
    layer that has none of them.
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
    """The weight and the mask once ``count`` weights have changed places.

    Of the active weights those with the smallest absolute values go; of the inactive ones those with the largest
    absolute gradients come, as zeros. Both are chosen among what the mask was before, so the order does not matter.
    """
    mask, gradient = mask.to(weight.device), gradient.to(weight.device)
    left = without_smallest(weight, mask, count)
    grown = gradient.abs().where(~mask, -1).flatten().argsort(descending=True, stable=True)[:count]
    return weight.where(left, 0), with_places(left, grown)


def without_smallest(weight: torch.Tensor, mask: torch.Tensor, count: int) -> torch.Tensor:
    """The mask without the ``count`` active weights of the smallest absolute values; of equal ones the first go."""
    smallest = weight.detach().abs().where(mask, torch.inf).flatten().argsort(stable=True)[:count]
    return mask.flatten().index_fill(0, smallest, False).view(mask.shape)


def with_places(mask: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The mask with further active weights, at these places in the flattened weight."""
    return mask.flatten().index_fill(0, places.long(), True).view(mask.shape)


def contested_masks(masks: Masks, weights: Tensors, scores: Tensors, share: float) -> Masks:
    """As many weights as before, of all layers together, of which only the smallest of each layer may have gone.

    Of a layer's n active weights the ``int(share * n)`` smallest in absolute value may go, without those that equal the
    next larger one; the others stay. Those that may go and all inactive weights, of all layers together, compete for
    what is left by their scores, (shape of the weight) each; of equal scores the first is kept. A layer that might lose
    all its weights keeps that of the largest score.

    That is PruneFL's rule as its authors' code has it (``process_layer`` and ``architecture_search``), where the search
    ends at a given number of weights and every weight takes as long as another.

    Raises:
        ValueError: for a score that is not a number.
    """
    staying = {layer: mask.to(scores[layer].device) for layer, mask in masks.items()}
    for layer, mask in staying.items():
        sizes = weights[layer].detach().abs().to(mask.device)
        ordered = sizes[mask].sort().values
        count = int(share * len(ordered))
        staying[layer] = mask & (sizes >= ordered[count]) if count < len(ordered) else torch.zeros_like(mask)
    chosen = {layer: scores[layer].masked_fill(mask, torch.inf) for layer, mask in staying.items()}
    return global_masks(chosen, sum(kept(masks).values()))
