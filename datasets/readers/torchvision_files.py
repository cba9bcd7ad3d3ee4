"""Data sets in the files that torchvision downloads, read by torchvision."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datasets.readers.labelled import Labelled, reading
from datasets.readers.stratified import stratified_split
from datasets.source import Indices
from fedsim.core.inflating import check_inflated

Arrays = tuple[npt.NDArray[np.uint8], Indices]
"""(N, H, W) or (N, H, W, 3), and (N,)"""

HALVES: tuple[dict[str, Any], dict[str, Any]] = ({"train": True}, {"train": False})
"""The arguments by which most of torchvision's classes select the training and the test set."""


@dataclass(frozen=True)
class OfficialSet:
    """One of torchvision's data sets, its files below the root, and the arguments for its training and test set."""

    dataset: type[Any]
    file_names: tuple[str, ...]
    train: Mapping[str, Any]
    test: Mapping[str, Any]

    def files(self, root: Path) -> tuple[Path, ...]:
        return tuple(root / name for name in self.file_names)

    def looked_for(self, root: Path) -> str:
        """Return the phrase for missing files in an error message; empty for their names."""
        return ""

    def download(self, root: Path) -> None:
        """Download missing files.

        Raises:
            UserError: If that fails.
        """
        if all(file.is_file() for file in self.files(root)):
            return
        with reading(f"download=true: {self.dataset.__name__} into {root}"):
            root.mkdir(parents=True, exist_ok=True)
            for half in (self.train, self.test):
                self.dataset(str(root), download=True, **half)

    def read(self, root: Path) -> Labelled:
        """Read the official training and test set.

        Raises:
            UserError: If a file is damaged.
        """
        train, test = self._halves(root)
        return Labelled.train_test(self._origin(root), train, test)

    def read_pooled(self, root: Path) -> Labelled:
        """Read both sets, pool them and split them again, 80 to 20, stratified by class with seed 0, as FedBN does.

        Raises:
            UserError: If a file is damaged.
        """
        (images, labels), (more_images, more_labels) = self._halves(root)
        images, labels = np.concatenate([images, more_images]), np.concatenate([labels, more_labels])
        with reading(self._origin(root)):
            train, test = stratified_split(labels)
        return Labelled.train_test(self._origin(root), (images[train], labels[train]), (images[test], labels[test]))

    def _halves(self, root: Path) -> tuple[Arrays, Arrays]:
        for file in self.files(root):
            with reading(file):
                check_inflated(file)  # torchvision reads all at once
        with reading(self._origin(root)):
            return _arrays(self.dataset(str(root), **self.train)), _arrays(self.dataset(str(root), **self.test))

    def _origin(self, root: Path) -> str:
        return f"{self.dataset.__name__} in {root}"


def _arrays(loaded: Any) -> Arrays:
    images = np.asarray(loaded.data)
    if images.ndim == 4 and images.shape[1] == 3:  # SVHN alone has the channels first
        images = images.transpose(0, 2, 3, 1)
    labels = loaded.labels if hasattr(loaded, "labels") else loaded.targets
    return images, np.asarray(labels).astype(np.int64)
