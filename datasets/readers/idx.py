"""Data sets in the idx files of MNIST, compressed (``.gz``) as their authors publish them or not."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datasets.readers.labelled import reading
from datasets.readers.torchvision_files import HALVES, Arrays, OfficialSet
from fedsim.core.errors import UserError
from fedsim.core.inflating import inflated

FILES = tuple(f"{half}-{what}-ubyte" for half in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
UNSIGNED_BYTES = 8
"""The code of the only type of numbers that these sets have."""


@dataclass(frozen=True)
class IdxSet(OfficialSet):
    """Images and labels of the training and the test set in four files, which are in one folder.

    ``file_names`` are the paths that torchvision makes; the files are also looked for in the folders above.
    """

    def files(self, root: Path) -> tuple[Path, ...]:
        """Return the four files of the first folder that has them all, or else the paths that torchvision makes."""
        for folder in self._folders(root):
            found = [_present(folder, name) for name in FILES]
            if None not in found:
                return tuple(file for file in found if file is not None)
        return super().files(root)

    def looked_for(self, root: Path) -> str:
        folders = " or ".join(str(folder) for folder in self._folders(root))
        return f"{FILES[0]} and its three like, each also as .gz, in {folders}"

    def _folders(self, root: Path) -> Iterator[Path]:
        """Yield torchvision's folder and those above it, up to the root."""
        folder = Path(self.file_names[0]).parent
        yield from (root / each for each in (folder, *folder.parents))

    def _halves(self, root: Path) -> tuple[Arrays, Arrays]:
        images, labels, test_images, test_labels = (read_idx(file) for file in self.files(root))
        halves = (images, labels.astype(np.int64)), (test_images, test_labels.astype(np.int64))
        for file, (pictures, numbers) in zip(self.files(root)[::2], halves, strict=True):
            if pictures.ndim != 3 or numbers.shape != pictures.shape[:1]:
                raise UserError(
                    f"{file} holds an array of {pictures.shape}, and there are labels of {numbers.shape}: they must be "
                    "(images, height, width) and (images,)."
                )
        return halves


def idx_set(dataset: type, folder: str) -> IdxSet:
    """Return the set whose files torchvision's ``dataset`` puts into ``folder``."""
    return IdxSet(dataset, tuple(f"{folder}/{name}" for name in FILES), *HALVES)


def read_idx(file: Path) -> npt.NDArray[np.uint8]:
    """Return the array of a file: four bytes with type and number of dimensions, four for each size, then the numbers.

    Raises:
        UserError: If the file is cut off, longer than its header says, or of another kind; names it.
    """
    with reading(file):
        content = inflated(file)
        if len(content) < 4 or content[:3] != bytes([0, 0, UNSIGNED_BYTES]):
            raise ValueError("it does not begin as an idx file of bytes does")
        start = 4 + 4 * content[3]
        shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
        expected = start + int(np.prod(shape, dtype=np.int64))
        if len(content) != expected:
            raise ValueError(f"it holds {len(content)} bytes, and by its first ones it has {expected}")
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _present(folder: Path, name: str) -> Path | None:
    """Return the file of that name, also compressed or with a dot before ``idx`` instead of a dash; else ``None``."""
    dotted = name.replace("-idx", ".idx")
    for file in (folder / each for each in (name, f"{name}.gz", dotted, f"{dotted}.gz")):
        with reading(file):
            if file.is_file():
                return file
    return None
