"""Parquet files with encoded images, as the Hugging Face hub serves every set; read with pandas.

The folder is local or any address that fsspec knows (``hf://datasets/uoft-cs/cifar10/plain_text``, which needs the
package huggingface_hub).
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pandas as pd
from PIL import Image

from datasets.readers.labelled import Pixels, reading
from fedsim.errors import UserError

IMAGE_COLUMNS = ("img", "image")


@dataclass(frozen=True)
class EncodedImages:
    """Decodes the bytes of an image when it is asked for."""

    origin: str
    encoded: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Pixels:
        with reading(f"image {index} of {self.origin}"), Image.open(io.BytesIO(self.encoded[index])) as image:
            return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


def find_parquet(folder: str, part: str) -> dict[str, str]:
    """Addresses of ``PART*.parquet`` in a folder and below, sorted, and for each a key that changes with its
    content."""
    with reading(folder):
        system, root = fsspec.core.url_to_fs(folder)
        found = sorted({*system.glob(f"{root}/{part}*.parquet"), *system.glob(f"{root}/**/{part}*.parquet")})
        return {system.unstrip_protocol(path): str(system.ukey(path)) for path in found}


def read_parquet(files: Iterable[str], label: str) -> tuple[EncodedImages, pd.DataFrame]:
    """The images, and all other columns beside each other, ``label`` among them.

    Errors: ``UserError`` naming the file that is damaged or lacks a column.
    """
    frames = []
    for file in files:
        with reading(file):
            frame = pd.read_parquet(file)
        image = next((column for column in IMAGE_COLUMNS if column in frame), None)
        if image is None or label not in frame:
            raise UserError(
                f"{file} holds {', '.join(map(str, frame))}: it needs {' or '.join(IMAGE_COLUMNS)}, and {label}."
            )
        frames.append(frame.rename(columns={image: IMAGE_COLUMNS[0]}))
    table = pd.concat(frames, ignore_index=True)
    encoded = [_bytes(cell) for cell in table.pop(IMAGE_COLUMNS[0])]
    return EncodedImages(", ".join(files), encoded), table


def _bytes(cell: Any) -> bytes:
    """The hub writes {bytes, path}."""
    found = cell.get("bytes") if isinstance(cell, dict) else cell
    return bytes(found) if found is not None else b""
