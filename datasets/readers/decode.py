"""From the results of the readers to a source: images are decoded on all cores, resized, and stored in the cache."""

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from weakref import finalize

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap
from PIL import Image

from datasets.cache import VARIABLE, cached, fingerprint, mapped
from datasets.readers.arrays import check_range
from datasets.readers.labelled import Images, Labelled, OnDisk, Pixels, already_bytes, block
from datasets.readers.listing import told
from datasets.source import Part, Source
from datasets.transforms import Transform
from fedsim.core.errors import UserError

log = logging.getLogger(__name__)

ALMOST_BLACK = 16
"""The largest possible pixel of a domain whose 16-bit files hold 12 bits: 4095 / 257."""
CHUNK = 256
"""How many images one thread decodes at a time."""


def load_source(
    name: str,
    domains: Mapping[str, OnDisk],
    class_names: Sequence[str],
    *,
    image_size: int,
    transform: Transform,
    channels: int = 3,
) -> Source:
    """Return all domains as a source, in one memory-mapped array of (N, channels, image_size, image_size).

    Raises:
        UserError: If a file cannot be read, or has labels of no class; names it.
    """
    check_image_size(image_size)
    _tell_what_lies_elsewhere(list(domains.values()))
    files = [file for domain in domains.values() for file in domain.files]
    versions = [domain.version for domain in domains.values()]
    digest = fingerprint((name, tuple(domains), tuple(class_names), image_size, channels, versions), files)

    def make(folder: Path) -> None:
        _store(
            folder, {domain: on_disk.read() for domain, on_disk in domains.items()}, class_names, image_size, channels
        )

    entry = cached(name, digest, make)
    writers = np.asarray(mapped(entry, "writers"), np.int64) if (entry / "writers.npy").exists() else None
    return Source(
        images=mapped(entry, "images"),
        labels=np.asarray(mapped(entry, "labels"), np.int64),
        domains=np.asarray(mapped(entry, "domains"), np.int64),
        parts=np.array(mapped(entry, "parts")),
        domain_names=tuple(domains),
        class_names=tuple(class_names),
        transform=transform,
        writers=writers,
    )


def check_image_size(image_size: int) -> None:
    """Check the size of images.

    Raises:
        UserError: If it is below 1.
    """
    if image_size < 1:
        raise UserError(f"dataset.image_size={image_size} is not possible: choose a whole number of at least 1.")


def empty_images(count: int, size: int) -> npt.NDArray[np.uint8]:
    """Return an array for RGB images in memory: uint8 (count, 3, size, size), on Linux a map of a file without a name.

    Workers map the same file, as they do that of the cache, where an array would be copied for them.

    Raises:
        UserError: If there is not so much memory.
    """
    shape = (count, 3, size, size)
    try:
        array = np.empty(shape, np.uint8)  # which takes memory only as it is written
    except (MemoryError, ValueError) as error:  # the second where numpy has no number for so many bytes
        raise UserError(
            f"dataset.image_size={size} is not possible: {count} images of it are {count * 3 * size**2 / 1e9:.3g} GB, "
            "and there is less memory: choose a smaller one."
        ) from error
    mapped = _mapped_in_memory(shape)
    return array if mapped is None else mapped


def _mapped_in_memory(shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    """Return a map of a file without a name; ``None`` where the system has none, or not of this size."""
    if not hasattr(os, "memfd_create"):
        return None
    descriptor = None
    try:
        descriptor = os.memfd_create("fedsim-images")
        array = open_memmap(f"/proc/{os.getpid()}/fd/{descriptor}", "w+", np.uint8, shape)
    except OSError:  # no /proc, or a limit of the process: workers are sent a copy of an array
        if descriptor is not None:
            os.close(descriptor)
        return None
    finalize(array.base, os.close, descriptor)  # when nothing is a view of it any more
    return array


def check_labels(labelled: Labelled, num_classes: int) -> None:
    """Check that each image has a label of a class, and that there are images to train and to test on.

    Raises:
        UserError: If that is not so; names the origin.
    """
    images, labels = len(labelled.images), labelled.labels
    if len(labels) != images or len(labelled.parts) != images:
        raise UserError(f"{labelled.origin} holds {images} images and {len(labels)} labels: there must be as many.")
    for part, what in ((Part.TRAIN, "training"), (Part.TEST, "test")):
        if part not in labelled.parts:
            raise UserError(f"{labelled.origin} holds no {what} images: both training and test images are needed.")
    check_range(labelled.origin, labels, num_classes)


def fill(out: npt.NDArray[np.uint8], images: Images) -> None:
    """Write every image into its row of ``out`` (N, channels, size, size), on all cores: decoding releases the GIL.

    Arrays of images that need no change are copied in blocks, which takes less than a tenth of the time.
    """

    def rows(first: int) -> None:
        end = min(first + CHUNK, len(images))
        arrays = block(images, first, end)
        if arrays is not None and _fits(arrays, out):
            out[first:end] = arrays.transpose(0, 3, 1, 2) if arrays.ndim == 4 else arrays[:, None]
            return
        for row in range(first, end):
            out[row] = resized(images[row], out.shape[1], out.shape[2])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(rows, range(0, len(images), CHUNK)):
            pass


def resized(image: Pixels, channels: int, size: int) -> Pixels:
    """Return the image as (channels, size, size), by Pillow's bilinear, antialiased resize.

    Grey is repeated over three channels, or colour converted to grey, as needed. The pixels are the same as those of
    torchvision's ``Resize`` and ``Grayscale`` of a Pillow image.
    """
    picture = Image.fromarray(np.asarray(image))
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture.convert("RGB" if channels == 3 else "L"))
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]


def _fits(arrays: Pixels, out: npt.NDArray[np.uint8]) -> bool:
    """Return whether ``resized`` would leave the pixels as they are, or repeat grey over the channels."""
    kept = arrays.ndim == 3 or arrays.shape[3] == out.shape[1] == 3
    return kept and arrays.dtype == np.uint8 and arrays.shape[1:3] == out.shape[2:]


def _store(
    folder: Path, domains: Mapping[str, Labelled], class_names: Sequence[str], image_size: int, channels: int
) -> None:
    for labelled in domains.values():
        check_labels(labelled, len(class_names))
    parts = list(domains.values())
    sizes = [len(labelled.labels) for labelled in parts]
    needed, free = sum(sizes) * channels * image_size**2, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"dataset.image_size={image_size} is not possible: {sum(sizes)} images of it are {needed / 1e9:.3g} GB, "
            f"and {folder.parent} has {free / 1e9:.3g} GB left: choose a smaller one, or {VARIABLE} of a larger disk."
        )
    images = open_memmap(
        folder / "images.npy", mode="w+", dtype=np.uint8, shape=(sum(sizes), channels, image_size, image_size)
    )
    _reserve(folder / "images.npy")
    first = 0
    for labelled in parts:
        mine = images[first : first + len(labelled.labels)]
        fill(mine, labelled.images)
        if not already_bytes(labelled.images):
            _refuse_darkness(labelled.origin, mine)
        first += len(labelled.labels)
    images.flush()
    np.save(folder / "labels.npy", np.concatenate([labelled.labels for labelled in parts]))
    np.save(folder / "domains.npy", np.repeat(np.arange(len(parts)), sizes))
    np.save(folder / "parts.npy", np.concatenate([labelled.parts for labelled in parts]))
    writers = [labelled.writers for labelled in parts]
    if all(each is not None for each in writers):
        np.save(folder / "writers.npy", np.concatenate(writers))  # type: ignore[arg-type]


def _tell_what_lies_elsewhere(domains: Sequence[OnDisk]) -> None:
    """Warn of files that are not read, and of classes whose images are all in folders inside that of the class."""
    left_out = [file for domain in domains for file in domain.left_out]
    if left_out:
        log.warning(
            "%d file%s among the images %s left out, being of no kind that is read or in no class: %s",
            *(len(left_out), *(("s", "are") if len(left_out) > 1 else ("", "is")), told(left_out)),
        )
    deeper = [folder for domain in domains for folder in domain.deeper]
    if deeper:
        log.warning(
            "all images of %d class%s lie in folders inside the class, as of %s: if those are the classes, data_dir is "
            "one folder too high",
            *(len(deeper), "es" if len(deeper) > 1 else "", deeper[0]),
        )


def _refuse_darkness(origin: str, images: npt.NDArray[np.uint8]) -> None:
    if len(images) and (lightest := int(images.max())) <= ALMOST_BLACK:
        raise UserError(
            f"{origin} holds images that are almost black, none with a pixel above {lightest} of 255: make them "
            "lighter (where files of 16 bits hold 12, multiply by 16)."
        )


def _reserve(file: Path) -> None:
    """Allocate the disk space of a file that is still empty: on a full disk, writing to its map would kill the process.

    Does nothing on systems without ``posix_fallocate``.
    """
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
