"""What every reader returns: the images of one domain, decoded as they are asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import UnidentifiedImageError

from datasets.source import Indices, Part
from fedsim.core import files

Pixels = npt.NDArray[np.uint8]
"""(height, width) or (height, width, 3)"""


class Images(Protocol):
    """An array of images, or a sequence that decodes the one it is asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any:
        """``Pixels``"""


Set = tuple[Images, Indices]
"""Images and their labels"""


@dataclass(frozen=True)
class Labelled:
    """The images of one domain, decoded as they are asked for, in an order that does not depend on the disk."""

    origin: str
    """The file or folder, for errors"""
    images: Images
    labels: Indices
    parts: npt.NDArray[np.uint8]
    """(N,), a ``Part`` each"""
    writers: Indices | None = None

    @classmethod
    def train_test(cls, origin: str, train: Set, test: Set) -> "Labelled":
        """A domain whose training and test images are known."""
        return cls(
            origin,
            images=_Chained(train[0], test[0]),
            labels=np.concatenate([train[1], test[1]]).astype(np.int64),
            parts=np.repeat(np.array([Part.TRAIN, Part.TEST], np.uint8), [len(train[1]), len(test[1])]),
        )

    def capped(self, train: int) -> "Labelled":
        """Without the training images beyond the first ``train``."""
        is_train = self.parts == Part.TRAIN
        kept = np.flatnonzero(~is_train | (np.cumsum(is_train) <= train))
        writers = None if self.writers is None else self.writers[kept]
        return Labelled(self.origin, _Chosen(self.images, kept), self.labels[kept], self.parts[kept], writers)


@dataclass(frozen=True)
class OnDisk:
    """One domain in one form, not read yet."""

    files: tuple[Path, ...]
    """All that the images depend on: when one changes, they are read again"""
    read: Callable[[], Labelled]
    version: str = ""
    """Changes with what is not a file on this machine"""
    looked_for: str = ""
    """What a sentence says where it is not there; empty for the names of the files"""
    left_out: tuple[Path, ...] = ()
    """Files that lie among the images and are not read"""
    deeper: tuple[Path, ...] = ()
    """Folders of classes whose images all lie in folders of theirs"""

    def is_there(self) -> bool:
        """Raises: ``UserError`` naming a file of which nobody may know whether it is there."""
        for file in self.files:
            with reading(file):
                if not file.is_file():
                    return False
        return True


@dataclass(frozen=True)
class _Chained:
    first: Images
    second: Images

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> Any:
        return self.first[index] if index < len(self.first) else self.second[index - len(self.first)]


@dataclass(frozen=True)
class _Chosen:
    images: Images
    places: Indices

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        return self.images[int(self.places[index])]


def already_bytes(images: Images) -> bool:
    """Return whether they are arrays of 8 bits, of which no shade can get lost, and no files that are decoded."""
    if isinstance(images, _Chained):
        return already_bytes(images.first) and already_bytes(images.second)
    if isinstance(images, _Chosen):
        return already_bytes(images.images)
    return isinstance(images, np.ndarray)


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """As ``fedsim.core.files.reading``, for the files and functions of others, which raise almost anything.

    Raises: ``UserError``.
    """
    with files.reading(path, errors=Exception):
        try:
            yield
        except UnidentifiedImageError as error:  # which names the address of a buffer
            raise ValueError("it is no image that Pillow knows") from error
