"""``dataset=tensors``: arrays that a function of your own returns.

``dataset.function=my_module.load`` names a function without arguments that returns a dictionary with ``train_images``
and ``test_images``, uint8 of (N, H, W) or (N, H, W, 3), and ``train_labels`` and ``test_labels``, whole numbers from 0;
if it likes also ``train_domains`` and ``test_domains``, a name or number for each image.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from datasets.readers.arrays import labelled_arrays
from datasets.readers.decode import check_labels, fill
from datasets.readers.labelled import reading
from datasets.source import Source
from fedsim.binding import locate
from fedsim.errors import UserError


def load(function: str, image_size: int | None = None) -> Source:
    """The arrays as a source, resized to a square if ``image_size`` is given.

    Errors: ``UserError`` if the function cannot be imported, or for an array that is missing or of another shape.
    """
    make: Callable[[], Mapping[str, Any]] = locate("dataset", "function", function)
    origin = f"dataset.function={function}"
    with reading(origin):
        arrays = make()
    if not isinstance(arrays, Mapping):
        raise UserError(f"{origin} returned {type(arrays).__name__}: it must return a dictionary of arrays.")
    labelled = labelled_arrays(origin, arrays)
    num_classes = int(labelled.labels.max(initial=-1)) + 1
    check_labels(labelled, num_classes)
    names, domains = _domains(origin, arrays, len(labelled.labels))
    shapes = {np.asarray(arrays[f"{half}_images"]).shape[1:3] for half in ("train", "test")}
    size = image_size or max(max(shape) for shape in shapes)
    images = np.empty((len(labelled.labels), 3, size, size), np.uint8)
    fill(images, labelled.images)
    return Source(images, labelled.labels, domains, labelled.parts, names, tuple(map(str, range(num_classes))))


def _domains(origin: str, arrays: Mapping[str, Any], count: int) -> tuple[tuple[str, ...], Any]:
    if "train_domains" not in arrays and "test_domains" not in arrays:
        return ("tensors",), np.zeros(count, np.int64)
    both = np.concatenate([np.asarray(arrays.get(f"{half}_domains", [])).astype(str) for half in ("train", "test")])
    if both.shape != (count,):
        raise UserError(f"{origin} holds domains of {both.shape}: they must be ({count},), one for each image.")
    names, domains = np.unique(both, return_inverse=True)
    return tuple(map(str, names)), domains.astype(np.int64)
