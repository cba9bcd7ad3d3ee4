"""``dataset=tensors``: arrays that a function of your own returns.

``dataset.function=my_module.load`` names a function without arguments that returns a dictionary with ``train_images``
and ``test_images``, uint8 of (N, H, W) or (N, H, W, 3), and ``train_labels`` and ``test_labels``, whole numbers from 0;
if it likes also ``train_domains`` and ``test_domains``, a name or number for each image.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from datasets.readers.arrays import labelled_arrays
from datasets.readers.decode import check_image_size, check_labels, empty_images, fill
from datasets.readers.labelled import reading
from datasets.source import Indices, Source
from fedsim.config.binding import locate
from fedsim.core.errors import UserError


def load(function: str | None, image_size: int | None = None) -> Source:
    """Load the arrays that the function returns as a source of square images.

    Their size is ``image_size``, or else the largest height or width.

    Raises:
        UserError: If the function cannot be imported or fails, or an array is missing or of another shape.
    """
    if function is None:
        raise UserError(
            "dataset.function=null is not possible: choose the dotted name of a function that returns the arrays."
        )
    if image_size is not None:
        check_image_size(image_size)
    make: Callable[[], Mapping[str, Any]] = locate("dataset", "function", function)
    origin = f"dataset.function={function}"
    with reading(origin):
        arrays = make()
    if not isinstance(arrays, Mapping):
        raise UserError(f"{origin} returned {type(arrays).__name__}: it must return a dictionary of arrays.")
    with reading(origin):
        labelled = labelled_arrays(origin, arrays)
        names, domains = _domains(origin, arrays)
    num_classes = int(labelled.labels.max(initial=-1)) + 1
    check_labels(labelled, num_classes)
    shapes = {np.asarray(arrays[f"{half}_images"]).shape[1:3] for half in ("train", "test")}
    size = image_size or max(max(shape) for shape in shapes)
    images = empty_images(len(labelled.labels), size)
    fill(images, labelled.images)
    return Source(images, labelled.labels, domains, labelled.parts, names, tuple(map(str, range(num_classes))))


def _domains(origin: str, arrays: Mapping[str, Any]) -> tuple[tuple[str, ...], Indices]:
    """Return the names of the domains, and an index into them for each training and then each test image."""
    images = {half: len(arrays[f"{half}_labels"]) for half in ("train", "test")}
    if not any(f"{half}_domains" in arrays for half in images):
        return ("tensors",), np.zeros(sum(images.values()), np.int64)
    given = {half: np.asarray(arrays.get(f"{half}_domains", [])) for half in images}
    for half, count in images.items():
        if given[half].shape != (count,):
            raise UserError(
                f"{origin} holds {half}_domains of {given[half].shape}: they must be ({count},), one for each image."
            )
    names, domains = np.unique(np.concatenate([each.astype(str) for each in given.values()]), return_inverse=True)
    return tuple(map(str, names)), domains.astype(np.int64)
