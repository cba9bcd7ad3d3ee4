"""Parquet files with encoded images, the form in which the Hugging Face hub serves data sets; read with pandas.

The folder is local or any address that fsspec knows (``hf://datasets/uoft-cs/cifar10/plain_text``, which needs the
package huggingface_hub).
"""

import io
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

import fsspec
import numpy as np
import pandas as pd
from pandas.api.types import is_integer_dtype
from PIL import Image

from datasets.readers.arrays import check_range
from datasets.readers.labelled import Pixels, reading
from datasets.readers.pixels import pixels
from datasets.source import Indices
from fedsim.core.errors import UserError

IMAGE_COLUMNS = ("img", "image")


@dataclass(frozen=True)
class EncodedImages:
    """A sequence of images that decodes the bytes of one when it is indexed."""

    files: Sequence[str]
    starts: Sequence[int]
    """The index of each file's first image"""
    encoded: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Pixels:
        file = bisect_right(self.starts, index) - 1
        origin = f"image {index - self.starts[file]} of {self.files[file]}"
        with reading(origin), Image.open(io.BytesIO(self.encoded[index])) as image:
            return pixels(image)


def find_parquet(folder: str, part: str) -> dict[str, str]:
    """Return the sorted addresses of ``PART*.parquet`` in a folder and below, each with a key that changes with it."""
    with reading(folder):
        system, root = fsspec.core.url_to_fs(folder)
        found = sorted({*system.glob(f"{root}/{part}*.parquet"), *system.glob(f"{root}/**/{part}*.parquet")})
        return {system.unstrip_protocol(path): str(system.ukey(path)) for path in found}


def read_parquet(
    files: Iterable[str], label: str, num_classes: int, *others: str
) -> tuple[EncodedImages, Indices, pd.DataFrame]:
    """Return the images, their labels from the column ``label``, and a frame of the columns ``others``.

    Raises:
        UserError: If a file is damaged, lacks a column or a cell, or has a label of no class; names it.
    """
    frames, starts = [], [0]
    for file in files:
        with reading(file):
            frame = pd.read_parquet(file)
        image = next((column for column in IMAGE_COLUMNS if column in frame), None)
        if image is None or not {label, *others} <= set(frame):
            raise UserError(
                f"{file} holds {', '.join(map(str, frame))}: "
                f"it needs {' or '.join(IMAGE_COLUMNS)}, and {', '.join((label, *others))}."
            )
        for column in (label, *others):
            if frame[column].isna().any():
                raise UserError(f"{file} holds a row without {column}: every image needs one.")
        if not is_integer_dtype(frame[label]):
            raise UserError(f"{file} holds {label} of {frame[label].dtype}: they must be whole numbers.")
        check_range(file, frame[label].to_numpy(np.int64), num_classes)
        frames.append(frame[[image, label, *others]].rename(columns={image: IMAGE_COLUMNS[0]}))
        starts.append(starts[-1] + len(frame))
    table = pd.concat(frames, ignore_index=True)
    with reading(", ".join(files)):
        encoded = [_bytes(cell) for cell in table.pop(IMAGE_COLUMNS[0])]
    return EncodedImages(list(files), starts[:-1], encoded), table.pop(label).to_numpy(np.int64), table


def _bytes(cell: Any) -> bytes:
    """Return the bytes of an image's cell: the hub writes ``{bytes, path}``, other files the bytes themselves."""
    found = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(found, bytes | NoneType):
        raise ValueError(f"an image is {type(found).__name__} and no bytes")
    return found or b""
