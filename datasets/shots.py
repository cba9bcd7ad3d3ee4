"""Which classes of a long tail are many, medium and few."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

SHOTS = ("many", "medium", "few")
Counts = Sequence[int] | npt.NDArray[np.int64]


def long_tailed(counts: Counts) -> bool:
    """Whether there is a tail to speak of: a class with at most half as many training images as another."""
    return bool(len(counts)) and 2 * min(counts) <= max(counts)


def shots_by_share(counts: Counts, borders: tuple[float, float] = (0.75, 0.95)) -> list[str]:
    """For each class its name of ``SHOTS``, by FedLoGe's code (arXiv 2401.08977).

    Classes are sorted by their numbers of training images; they are *many* until these add up to the first share of all
    images, *medium* until the second, the rest *few*. A class that crosses a border still belongs to what is before it.
    """
    sizes = np.asarray(counts)
    order = np.argsort(-sizes, kind="stable")
    before = np.cumsum(sizes[order]) - sizes[order]
    names = np.empty(len(sizes), object)
    names[order] = np.array(SHOTS, object)[np.searchsorted(np.array(borders) * sizes.sum(), before, side="right")]
    return list(names)


def shots_by_count(counts: Counts, borders: tuple[int, int] = (100, 20)) -> list[str]:
    """The rule of the long-tail literature (Liu et al., CVPR 2019, arXiv 1904.05160).

    *Many* have more training images than the first number, *few* have fewer than the second.
    """
    return [SHOTS[0] if size > borders[0] else SHOTS[2] if size < borders[1] else SHOTS[1] for size in counts]


SHOT_RULES: dict[str, Callable[[Counts], list[str]]] = {"share": shots_by_share, "count": shots_by_count}
"""What ``shots=`` may be."""
