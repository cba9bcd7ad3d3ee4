"""Arrays of a train and a test set under the common names, from an ``.npz`` or from a user's own function."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datasets.readers.labelled import Labelled, Pixels, reading
from datasets.source import Indices
from fedsim.core.errors import UserError

NAMES = ("train_images", "train_labels", "test_images", "test_labels")


def read_npz(path: Path) -> Labelled:
    """Errors: ``UserError`` naming the file if it is damaged, lacks an array or holds one of another shape."""
    # Opened here, since numpy leaves a damaged archive open.
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return labelled_arrays(str(path), {name: archive[name] for name in archive.files if name in NAMES})


def labelled_arrays(origin: str, arrays: Mapping[str, Any]) -> Labelled:
    """Images uint8 (N, H, W) or (N, H, W, 3) and whole-numbered labels (N,), under the four ``NAMES``.

    Errors: ``UserError`` naming the origin and the array.
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
    """The two as arrays. Errors: ``UserError`` naming the origin and the one whose type or shape is wrong."""
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
    """Errors: ``UserError`` naming the origin of a label that is of no class."""
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise UserError(f"{origin} holds the label {wrong[0]}: allowed are 0 to {num_classes - 1}.")
