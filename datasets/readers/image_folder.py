"""Image files in one folder per class, and the split of a domain that comes without one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from datasets.readers.labelled import Labelled, Pixels, reading
from datasets.readers.stratified import stratified_split
from datasets.source import Indices
from fedsim.errors import UserError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class ImageFiles:
    """Decodes a file when it is asked for."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Pixels:
        return decode(self.paths[index])


def decode(path: Path) -> Pixels:
    """(height, width, 3). Errors: ``UserError`` naming a file that is cut off or no image."""
    with reading(path), Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are left out."""
    with reading(folder):
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def image_paths(domain: Path, classes: Mapping[str, int]) -> dict[Path, int]:
    """Every image of a domain and its label, in the order of folder and file names; ``classes`` are folder names.

    Errors: ``UserError`` naming a class folder that is missing or holds fewer than two images.
    """
    labels: dict[Path, int] = {}
    for folder, label in sorted(classes.items()):
        if not (domain / folder).is_dir():
            raise UserError(f"{domain / folder} is missing: the domain {domain.name} needs a folder for each class.")
        with reading(domain / folder):
            files = sorted(path for path in (domain / folder).iterdir() if path.suffix.lower() in SUFFIXES)
        if len(files) < 2:
            held = "one image, too few to train and to test on" if files else "no image"
            raise UserError(f"{domain / folder} holds {held}: fill the folder, or leave the class out everywhere.")
        labels |= dict.fromkeys(files, label)
    return labels


def split_folder(origin: Path, labels: Mapping[Path, int]) -> Labelled:
    """All images of a domain, 80 % for training and 20 % for the test: stratified by class with seed 0.

    They stand in the random order of that split, the training images first, so that the first of them are of all
    classes.

    Errors: ``UserError`` naming a domain that has too few images for each class to be among the 20 %.
    """
    paths, classes = list(labels), np.array(list(labels.values()), np.int64)
    needed = 5 * len(np.unique(classes)) - 4
    if len(paths) < needed:
        raise UserError(
            f"{origin} holds {len(paths)} images: to have each class among the 20 % for the test it needs {needed}."
        )
    with reading(origin):
        train, test = stratified_split(classes)
    return listed(origin, ([paths[i] for i in train], classes[train]), ([paths[i] for i in test], classes[test]))


def listed(origin: Path, train: tuple[Sequence[Path], Indices], test: tuple[Sequence[Path], Indices]) -> Labelled:
    """Images that have been split already."""
    return Labelled.train_test(str(origin), (ImageFiles(train[0]), train[1]), (ImageFiles(test[0]), test[1]))
