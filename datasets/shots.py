"""Which classes of a long tail are many, medium and few."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SHOTS = ("many", "medium", "few")


def shots_by_share(
    counts: Sequence[int] | npt.NDArray[np.int64], borders: tuple[float, float] = (0.75, 0.95)
) -> list[str]:
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
