"""The result of every reader: the images of one domain, decoded when they are indexed."""

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
    """An array of images, or a sequence that decodes an image when it is indexed."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any:
        """Return ``Pixels``."""


Set = tuple[Images, Indices]
"""Images and their labels"""


@dataclass(frozen=True)
class Labelled:
    """The images of one domain, decoded when they are indexed, in an order that does not depend on the disk."""

    origin: str
    """The file or folder, for error messages"""
    images: Images
    labels: Indices
    parts: npt.NDArray[np.uint8]
    """(N,), a ``Part`` each"""
    writers: Indices | None = None

    @classmethod
    def train_test(cls, origin: str, train: Set, test: Set) -> "Labelled":
        """Return a domain whose training and test images are known."""
        return cls(
            origin,
            images=_Chained(train[0], test[0]),
            labels=np.concatenate([train[1], test[1]]).astype(np.int64),
            parts=np.repeat(np.array([Part.TRAIN, Part.TEST], np.uint8), [len(train[1]), len(test[1])]),
        )

    def capped(self, train: int) -> "Labelled":
        """Return the domain without the training images after the first ``train``."""
        is_train = self.parts == Part.TRAIN
        kept = np.flatnonzero(~is_train | (np.cumsum(is_train) <= train))
        writers = None if self.writers is None else self.writers[kept]
        return Labelled(self.origin, _Chosen(self.images, kept), self.labels[kept], self.parts[kept], writers)


@dataclass(frozen=True)
class OnDisk:
    """One domain in one form on disk, not read yet."""

    files: tuple[Path, ...]
    """All files that the images depend on: if one changes, they are read again"""
    read: Callable[[], Labelled]
    version: str = ""
    """A text that changes with data that are not files on this machine"""
    looked_for: str = ""
    """The phrase for the files in an error message; empty for their names"""
    left_out: tuple[Path, ...] = ()
    """Files among the images that are not read"""
    deeper: tuple[Path, ...] = ()
    """Folders of classes whose images are all in folders inside them"""

    def is_there(self) -> bool:
        """Return whether all files exist.

        Raises:
            UserError: If that cannot be determined for a file, such as for lack of permission; names it.
        """
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
    """Return whether the images are arrays of 8 bits, which lose no shades, and not files that are decoded."""
    if isinstance(images, _Chained):
        return already_bytes(images.first) and already_bytes(images.second)
    if isinstance(images, _Chosen):
        return already_bytes(images.images)
    return isinstance(images, np.ndarray)


def block(images: Images, first: int, end: int) -> Pixels | None:
    """Return the images from ``first`` to before ``end`` as one array; ``None`` if they do not lie in one."""
    if isinstance(images, _Chained):
        start = len(images.first)
        if first >= start:
            return block(images.second, first - start, end - start)
        return block(images.first, first, end) if end <= start else None
    return images[first:end] if isinstance(images, np.ndarray) else None


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Convert errors as ``fedsim.core.files.reading`` does, but of any class.

    For files and functions of users, which may raise almost anything.

    Raises:
        UserError: If the block raises.
    """
    with files.reading(path, errors=Exception):
        try:
            yield
        except UnidentifiedImageError as error:  # whose message has the address of a buffer
            raise ValueError("it is no image that Pillow knows") from error
