"""Random images: written once, read by every contestant. Client k's are the k-th of equal parts."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.contestants.cases import CLASSES, IMAGE_SHAPE, Case

VARIABLE = "FEDSIM_BENCHMARK_IMAGES"
"""The environment variable that tells ``load`` the folder, since fedsim calls it without arguments."""
DOMAINS = "FEDSIM_BENCHMARK_DOMAINS"
"""If set, the number of equal parts that ``load`` calls domains."""


def write(folder: Path, case: Case, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for part, count in (("train", case.clients * case.images), ("test", case.tests)):
        np.save(folder / f"{part}_images.npy", rng.integers(256, size=(count, *IMAGE_SHAPE), dtype=np.uint8))
        # Every class occurs, since fedsim counts classes by the largest label.
        np.save(folder / f"{part}_labels.npy", rng.permutation(np.arange(count) % CLASSES))


def read(folder: Path, part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return images (N, 3, 28, 28), mapped so that processes share them, and labels (N,)."""
    return np.load(folder / f"{part}_images.npy", mmap_mode="r"), np.load(folder / f"{part}_labels.npy")


def load() -> dict[str, npt.NDArray[np.generic]]:
    """Return the arrays in the form of ``dataset.function``: images (N, 28, 28, 3)."""
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for part in ("train", "test"):
        images, labels = read(Path(os.environ[VARIABLE]), part)
        arrays |= {f"{part}_images": images.transpose(0, 2, 3, 1), f"{part}_labels": labels}
        if domains := int(os.environ.get(DOMAINS, 0)):
            arrays[f"{part}_domains"] = np.repeat(np.arange(domains), len(labels) // domains)
    return arrays
