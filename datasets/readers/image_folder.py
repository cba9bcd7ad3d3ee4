"""Image files in one folder per class, and the split of a domain that has none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from datasets.readers.labelled import Labelled, Pixels, reading
from datasets.readers.listing import list_images, loose_images, told
from datasets.readers.pixels import pixels
from datasets.readers.stratified import stratified_split
from datasets.source import Indices
from fedsim.core.errors import UserError

BEGINNING = 60
"""How many bytes of a file that is no image are read to show its first line in the error."""


@dataclass(frozen=True)
class ImageFiles:
    """A sequence of images that decodes a file when it is indexed."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Pixels:
        return decode(self.paths[index])


def decode(path: Path) -> Pixels:
    """Return the pixels of a file, as ``pixels`` converts them.

    Raises:
        UserError: If the file is cut off or no image; names it.
    """
    # Given a path, Pillow would memory-map the file, and confuse height and width of a TIFF that EXIF rotates.
    with reading(path), path.open("rb") as file:
        try:
            with Image.open(file) as image:
                return pixels(image)
        except UnidentifiedImageError as error:
            raise ValueError(_no_image(path)) from error


def _no_image(path: Path) -> str:
    """Return the reason for a file that Pillow does not know, with its first line.

    Mostly it is a pointer to the image, as of Git LFS, or a web page.
    """
    with path.open("rb") as file:
        begin = file.read(BEGINNING)
    if not begin:
        return "it is empty"
    line = begin.splitlines()[0]
    known = "" if not line.isascii() or not line.decode().isprintable() else f", and begins with {line.decode()!r}"
    return f"it is no image that Pillow knows{known}"


@dataclass(frozen=True)
class FolderFiles:
    """The image files of all classes in one folder, in the order of folder and file names."""

    labels: dict[Path, int]
    left_out: tuple[Path, ...] = ()
    """Files beside them that are not read"""
    deeper: tuple[Path, ...] = ()
    """Folders of classes whose images are all in folders inside them"""

    def as_set(self) -> tuple[list[Path], Indices]:
        """Return the files and their labels."""
        return list(self.labels), np.array(list(self.labels.values()), np.int64)


def image_paths(domain: Path, classes: Mapping[str, int]) -> FolderFiles:
    """Return every image of a domain and its label; ``classes`` maps names of folders to labels.

    Raises:
        UserError: If the folder of a class is missing or has fewer than two images; names it.
    """
    labels: dict[Path, int] = {}
    left_out = loose_images(domain)
    deeper: list[Path] = []
    for folder, label in sorted(classes.items()):
        if not (domain / folder).is_dir():
            raise UserError(f"{domain / folder} is missing: the domain {domain.name} needs a folder for each class.")
        listing = list_images(domain / folder)
        files = listing.images
        if len(files) < 2:
            held = "one image, too few to train and to test on" if files else "no image"
            other = f" (left out are {told(listing.left_out)})" if listing.left_out else ""
            raise UserError(
                f"{domain / folder} holds {held}{other}: fill the folder, or leave the class out everywhere."
            )
        labels |= dict.fromkeys(files, label)
        left_out += listing.left_out
        if all(file.parent != domain / folder for file in files):
            deeper.append(domain / folder)
    return FolderFiles(labels, tuple(left_out), tuple(deeper))


def split_folder(origin: Path, files: FolderFiles) -> Labelled:
    """Return all images of a domain, 80 % for training and 20 % for the test: stratified by class with seed 0.

    They are in the random order of that split, the training images first, so that a part from the front has all
    classes.

    Raises:
        UserError: If the domain has too few images for each class to be among the 20 %; names it.
    """
    paths, classes = files.as_set()
    needed = 5 * len(np.unique(classes)) - 4
    if len(paths) < needed:
        raise UserError(
            f"{origin} holds {len(paths)} images: to have each class among the 20 % for the test it needs {needed}."
        )
    with reading(origin):
        train, test = stratified_split(classes)
    return listed(origin, ([paths[i] for i in train], classes[train]), ([paths[i] for i in test], classes[test]))


def listed(origin: Path, train: tuple[Sequence[Path], Indices], test: tuple[Sequence[Path], Indices]) -> Labelled:
    """Return images that are split already."""
    return Labelled.train_test(str(origin), (ImageFiles(train[0]), train[1]), (ImageFiles(test[0]), test[1]))
