"""Arrays of a train and a test set under the common names, from an ``.npz`` or from a user's own function."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from datasets.readers.labelled import Labelled, Pixels, reading
from datasets.source import Indices
from fedsim.core.errors import UserError
from fedsim.core.inflating import check_archive

NAMES = ("train_images", "train_labels", "test_images", "test_labels")


def read_npz(path: Path) -> Labelled:
    """Read the arrays of an ``.npz`` file.

    Raises:
        UserError: If the file is damaged, lacks an array or has one of another shape; names it.
    """
    # Opened here, since numpy does not close a damaged archive.
    with reading(path), path.open("rb") as file:
        check_archive(file)
        with np.load(file, allow_pickle=False) as archive:
            there = [name for name in archive.files if name in NAMES]
            for name in there:
                _check_header(archive.zip, f"{name}.npy")
            return labelled_arrays(str(path), {name: archive[name] for name in there})


def _check_header(archive: zipfile.ZipFile, member: str) -> None:
    """Check that an array is as large as its header says: numpy makes room for it before it reads it.

    Raises:
        ValueError: If it is not.
    """
    with archive.open(member) as file:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"its {member} is of the version {version}, which plain arrays are not")
        shape, _, dtype = read(file)
        said, held = math.prod(shape) * dtype.itemsize, archive.getinfo(member).file_size - file.tell()
    if said != held:
        raise ValueError(f"its {member} holds {held} bytes, and by its first ones it has {said}")


def labelled_arrays(origin: str, arrays: Mapping[str, Any]) -> Labelled:
    """Return the arrays under the four ``NAMES``: images uint8 (N, H, W) or (N, H, W, 3), and integer labels (N,).

    Raises:
        UserError: If an array is missing, or of another type or shape; names the origin and the array.
    """
    for name in NAMES:
        if name not in arrays:
            raise UserError(f"{origin} holds no {name}: it needs {', '.join(NAMES)}.")
    train, test = (
        checked_arrays(origin, f"{half}_images", arrays[f"{half}_images"], f"{half}_labels", arrays[f"{half}_labels"])
        for half in ("train", "test")
    )
    return Labelled.train_test(origin, train, test)


def checked_arrays(origin: str, images_name: str, images: Any, labels_name: str, labels: Any) -> tuple[Pixels, Indices]:
    """Return images and labels as arrays, the labels as int64.

    Raises:
        UserError: If a type or shape is wrong; names the origin and the array.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    grey_or_colour = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
    if images.dtype != np.uint8 or not grey_or_colour or 0 in images.shape[1:]:
        raise UserError(
            f"{origin} holds {images_name} of {images.dtype} {images.shape}: "
            "they must be uint8 of (images, height, width) or (images, height, width, 3)."
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise UserError(
            f"{origin} holds {labels_name} of {labels.dtype} {labels.shape}: "
            f"they must be whole numbers of ({len(images)},), one for each image."
        )
    return images, labels.astype(np.int64)


def check_range(origin: str, labels: Indices, num_classes: int) -> None:
    """Check that all labels are from 0 to ``num_classes - 1``.

    Raises:
        UserError: If one is not; names the origin.
    """
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise UserError(f"{origin} holds the label {wrong[0]}: allowed are 0 to {num_classes - 1}.")
