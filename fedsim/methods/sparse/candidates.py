"""How many weights each layer keeps, for one overall density: FedTiny's candidates and what other methods begin with.

FedTiny: Huang et al., ICDCS 2023, arXiv 2212.01977. The overall density is that of the layers given here; whatever
stays dense is not in it. Each scheme keeps ``round(density * weights)`` of them to the last weight, so that candidates
differ in where weights are and not in how many there are.
"""

import math
from collections.abc import Mapping
from fractions import Fraction

import torch

from fedsim.core.errors import UserError

Shapes = Mapping[str, torch.Size]
"""Of the weights, by the name of the layer."""
Counts = dict[str, int]
"""How many weights are kept, by the name of the layer: at least one and at most all of each."""
LEAST, MOST = 0.5, 1.5
"""The range of the factor by which a layer of a drawn candidate is denser than the whole, as in FedTiny's code."""
TOLERANCE = 0.02
"""How far off the target, as a share of it, the density of a draw may be, as in FedTiny's code."""


def kept_total(shapes: Shapes, density: float) -> int:
    """How many weights of all these layers the density keeps.

    Errors: ``UserError`` if that is not at least one for each layer and at most all.
    """
    weights = sum(shape.numel() for shape in shapes.values())
    if not 0 < density <= 1 or round(density * weights) < len(shapes):
        raise UserError(
            f"strategy.density={density} is not possible: choose a number from {len(shapes) / weights:.2g}, which "
            f"keeps one weight in each of {len(shapes)} layers, to 1."
        )
    return round(density * weights)


def uniform(shapes: Shapes, density: float) -> Counts:
    """The same density in each layer."""
    sizes = _sizes(shapes)
    return _allot(sizes, sizes, kept_total(shapes, density))


def erk(shapes: Shapes, density: float) -> Counts:
    """Erdos-Renyi-Kernel, as in RigL (Evci et al., ICML 2020, arXiv 1911.11134): small layers are denser.

    The density of a layer of weights (out, in, height, width) is proportional to (out + in + height + width) /
    (out * in * height * width), its number of weights therefore to that sum. Layers that would exceed 1 are dense, and
    the others share what is left.
    """
    return _allot({layer: sum(shape) for layer, shape in shapes.items()}, _sizes(shapes), kept_total(shapes, density))


def noise(shapes: Shapes, density: float, generator: torch.Generator) -> Counts:
    """Each layer's density is the target times a number drawn from U(0.5, 1.5), as in FedTiny's code.

    All are drawn again until together they are within 2 % of the target; what is still missing is made up for in
    proportion. (Above a target of 2/3 a draw may exceed 1: such a layer is dense, and the others make up for it.)
    """
    total = kept_total(shapes, density)
    sizes = torch.tensor([shape.numel() for shape in shapes.values()], dtype=torch.float64)
    while True:
        drawn = torch.rand(len(sizes), generator=generator, dtype=torch.float64) * (MOST - LEAST) + LEAST
        kept = density * drawn * sizes
        if abs(kept.sum() / sizes.sum() - density) <= TOLERANCE * density:
            return _allot(dict(zip(shapes, kept.tolist(), strict=True)), _sizes(shapes), total)


def candidate_pool(shapes: Shapes, density: float, candidates: int, generator: torch.Generator) -> list[Counts]:
    """So many candidates of one overall density; the first is uniform and the others are drawn.

    With one candidate there is nothing to choose from, and then it should be no draw either but what is pruned by
    without a choice; with more of them the choice is never worse than that on the data it is made on.

    Errors: ``UserError`` without a candidate, or for a density that is not possible.
    """
    if candidates < 1:
        raise UserError(f"strategy.candidates={candidates} is not possible: choose a whole number of at least 1.")
    return [uniform(shapes, density), *(noise(shapes, density, generator) for _ in range(candidates - 1))]


def nested(counts: Counts, shapes: Shapes, density: float) -> Counts:
    """Of what ``counts`` keeps the share that makes a smaller overall density, the same in each layer; all of it where
    the density is no smaller.

    Errors: ``UserError`` for a density that keeps less than one weight of each layer.
    """
    return _allot(counts, counts, min(kept_total(shapes, density), sum(counts.values())))


def _sizes(shapes: Shapes) -> Counts:
    return {layer: shape.numel() for layer, shape in shapes.items()}


def _allot(shares: Mapping[str, float], most: Counts, total: int) -> Counts:
    """Whole numbers in proportion to the shares, from one to the ``most`` of each layer, that sum to ``total``.

    In fractions, not floats, so that equal remainders are equal; of these the first layer's is rounded up.
    """
    free = {layer: Fraction(share) for layer, share in shares.items()}
    exact: dict[str, Fraction] = {}
    while free:
        scale = (total - sum(exact.values())) / sum(free.values())
        wanted = {layer: share * scale for layer, share in free.items()}
        bounded = {layer: min(max(count, Fraction(1)), most[layer]) for layer, count in wanted.items()}
        # Bounds from below and from above pull the scale in opposite ways: only those on the stronger side are sure.
        excess = sum(bounded.values()) - total + sum(exact.values())
        sure = {
            layer
            for layer in free
            if bounded[layer] != wanted[layer] and (bounded[layer] - wanted[layer]) * excess >= 0
        }
        done = sure or set(free)
        exact |= {layer: Fraction(bounded[layer]) for layer in done}
        free = {layer: share for layer, share in free.items() if layer not in done}
    counts = {layer: math.floor(exact[layer]) for layer in most}
    by_remainder = sorted(most, key=lambda layer: counts[layer] - exact[layer])
    for layer in by_remainder[: total - sum(counts.values())]:
        counts[layer] += 1
    return counts
