"""Rules by which classes of a long tail are many, medium or few."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

SHOTS = ("many", "medium", "few")
Counts = Sequence[int] | npt.NDArray[np.int64]


def long_tailed(counts: Counts) -> bool:
    """Return whether there is a long tail: a class with at most half as many training images as another."""
    return bool(len(counts)) and 2 * min(counts) <= max(counts)


def shots_by_share(counts: Counts, borders: tuple[float, float] = (0.75, 0.95)) -> list[str]:
    """Return for each class its name of ``SHOTS``, by the rule in FedLoGe's code (arXiv 2401.08977).

    Classes are sorted by their numbers of training images, the largest first. They are *many* until these add up to the
    first share of all images, *medium* until the second, and the rest are *few*. A class in which the sum crosses a
    border still belongs to the group before it.
    """
    sizes = np.asarray(counts)
    order = np.argsort(-sizes, kind="stable")
    before = np.cumsum(sizes[order]) - sizes[order]
    names = np.empty(len(sizes), object)
    names[order] = np.array(SHOTS, object)[np.searchsorted(np.array(borders) * sizes.sum(), before, side="right")]
    return list(names)


def shots_by_count(counts: Counts, borders: tuple[int, int] = (100, 20)) -> list[str]:
    """Return for each class its name of ``SHOTS``, by the rule of Liu et al. (CVPR 2019, arXiv 1904.05160).

    It is common in the long-tail literature: *many* have more training images than the first number, *few* have fewer
    than the second.
    """
    return [SHOTS[0] if size > borders[0] else SHOTS[2] if size < borders[1] else SHOTS[1] for size in counts]


SHOT_RULES: dict[str, Callable[[Counts], list[str]]] = {"share": shots_by_share, "count": shots_by_count}
"""The values of ``shots=``."""
