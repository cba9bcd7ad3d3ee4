"""Numbers of active weights by layer for one overall density: FedTiny's candidates and initial distributions.

FedTiny: Huang et al., ICDCS 2023, arXiv 2212.01977. The overall density refers to the layers in ``shapes``; layers that
stay dense are not counted. Each scheme has exactly ``round(density * weights)`` active weights, so that candidates
differ in where weights are and not in their number.
"""

import math
from collections.abc import Mapping
from fractions import Fraction

import torch

from fedsim.core.errors import UserError

Shapes = Mapping[str, torch.Size]
"""Shapes of the weights, by name of the layer."""
Counts = dict[str, int]
"""Numbers of active weights, by name of the layer: at least one and at most all of each."""
LEAST, MOST = 0.5, 1.5
"""The range of the factor between the density of a layer of a drawn candidate and the target, as in FedTiny's code."""
TOLERANCE = 0.02
"""The largest relative difference between the density of a draw and the target, as in FedTiny's code."""


def kept_total(shapes: Shapes, density: float) -> int:
    """Return the number of active weights of all these layers together.

    Raises:
        UserError: If the density is not in (0, 1] or leaves less than one weight for each layer.
    """
    weights = sum(shape.numel() for shape in shapes.values())
    if not 0 < density <= 1 or round(density * weights) < len(shapes):
        raise UserError(
            f"strategy.density={density} is not possible: choose a number from {len(shapes) / weights:.2g}, which "
            f"keeps one weight in each of {len(shapes)} layers, to 1."
        )
    return round(density * weights)


def uniform(shapes: Shapes, density: float) -> Counts:
    """Return counts with the same density in each layer.

    Raises:
        UserError: If the density is not possible.
    """
    sizes = _sizes(shapes)
    return _allot(sizes, sizes, kept_total(shapes, density))


def erk(shapes: Shapes, density: float) -> Counts:
    """Return Erdos-Renyi-Kernel counts, as in RigL (Evci et al., ICML 2020, arXiv 1911.11134): small layers are denser.

    The density of a layer with weights (out, in, height, width) is proportional to (out + in + height + width) /
    (out * in * height * width), its number of active weights therefore to that sum. Layers whose density would exceed 1
    are dense, and the others share the rest.

    Raises:
        UserError: If the density is not possible.
    """
    return _allot({layer: sum(shape) for layer, shape in shapes.items()}, _sizes(shapes), kept_total(shapes, density))


def noise(shapes: Shapes, density: float, generator: torch.Generator) -> Counts:
    """Return counts with each layer's density drawn as the target times U(0.5, 1.5), as in FedTiny's code.

    The draw is repeated until the overall density is within 2 % of the target; all layers are then rescaled to match
    it. (Above a target of 2/3 a draw may exceed 1: such a layer is dense, and the others compensate.)

    Raises:
        UserError: If the density is not possible.
    """
    total = kept_total(shapes, density)
    sizes = torch.tensor([shape.numel() for shape in shapes.values()], dtype=torch.float64)
    while True:
        drawn = torch.rand(len(sizes), generator=generator, dtype=torch.float64) * (MOST - LEAST) + LEAST
        kept = density * drawn * sizes
        if abs(kept.sum() / sizes.sum() - density) <= TOLERANCE * density:
            return _allot(dict(zip(shapes, kept.tolist(), strict=True)), _sizes(shapes), total)


def candidate_pool(shapes: Shapes, density: float, candidates: int, generator: torch.Generator) -> list[Counts]:
    """Return ``candidates`` counts of one overall density; the first is uniform and the others are drawn.

    A single candidate is therefore the usual uniform one and not a random draw; with several candidates the chosen one
    is never worse than the uniform one on the data of the selection.

    Raises:
        UserError: If ``candidates`` is below 1, or the density is not possible.
    """
    if candidates < 1:
        raise UserError(f"strategy.candidates={candidates} is not possible: choose a whole number of at least 1.")
    return [uniform(shapes, density), *(noise(shapes, density, generator) for _ in range(candidates - 1))]


def nested(counts: Counts, shapes: Shapes, density: float) -> Counts:
    """Return ``counts`` reduced to a smaller overall density by one factor for all layers; unchanged if not smaller.

    Raises:
        UserError: If the density leaves less than one weight for each layer.
    """
    return _allot(counts, counts, min(kept_total(shapes, density), sum(counts.values())))


def _sizes(shapes: Shapes) -> Counts:
    return {layer: shape.numel() for layer, shape in shapes.items()}


def _allot(shares: Mapping[str, float], most: Counts, total: int) -> Counts:
    """Return integers proportional to the shares, from one to ``most`` of each layer, that sum to ``total``.

    Computed in fractions, not floats, so that equal remainders compare as equal; the first of these is rounded up.
    """
    free = {layer: Fraction(share) for layer, share in shares.items()}
    exact: dict[str, Fraction] = {}
    while free:
        scale = (total - sum(exact.values())) / sum(free.values())
        wanted = {layer: share * scale for layer, share in free.items()}
        bounded = {layer: min(max(count, Fraction(1)), most[layer]) for layer, count in wanted.items()}
        # Lower and upper bounds change the scale in opposite directions: only those on the stronger side are final.
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
