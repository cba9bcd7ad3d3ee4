"""Data sets of one domain with an official training and test set, in any of several forms on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets.readers.arrays import read_npz
from datasets.readers.decode import check_image_size, load_source
from datasets.readers.finding import data_folder, first_there
from datasets.readers.labelled import Labelled, OnDisk
from datasets.readers.parquet import find_parquet, read_parquet
from datasets.readers.torchvision_files import OfficialSet
from datasets.source import Source
from datasets.transforms import Augmentation, Cutout, Transform
from fedsim.core.errors import UserError


@dataclass(frozen=True)
class OfficialHalves:
    """A data set with an official training and test set; ``dataset=`` calls its ``load``."""

    name: str
    classes: Sequence[str]
    official: OfficialSet
    augmentations: tuple[Augmentation, ...]
    label_column: str = "label"
    """The column of the labels in the files of the Hugging Face hub"""

    def load(
        self,
        data_dir: Path | None,
        download: bool,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int,
        augment: bool,
        npz: str,
        parquet: str | None = None,
        cutout: int | None = None,
    ) -> Source:
        """Load the source from ``parquet`` if it is set, else ``npz`` in ``data_dir``, else torchvision's files there.

        Raises:
            UserError: If an option is not possible, no files are found, or a file is damaged; names the files.
        """
        check_image_size(image_size)
        transform = Transform.of(mean, std, self.augmentations if augment else (), _cutout(cutout, image_size, augment))
        if parquet is not None:
            found = _parquet_halves(parquet, self.label_column, len(self.classes))
        else:
            found = self._find(data_folder(self.name, data_dir, self._holds(npz), make=download), npz, download)
        return load_source(self.name, {self.name: found}, self.classes, image_size=image_size, transform=transform)

    def _holds(self, npz: str) -> str:
        files = ", or else ".join((npz, self.official.file_names[0]))
        return f"{files} and its like"

    def _find(self, folder: Path, npz: str, download: bool) -> OnDisk:
        archive = folder / npz
        arrays = OnDisk((archive,), partial(read_npz, archive))
        if download and not arrays.is_there():
            self.official.download(folder)
        official = OnDisk(
            self.official.files(folder),
            partial(self.official.read, folder),
            looked_for=self.official.looked_for(folder),
        )
        return first_there(self.name, [arrays, official], downloadable=not download)


def _cutout(size: int | None, image_size: int, augment: bool) -> tuple[Augmentation, ...]:
    if size is None:
        return ()
    if not 1 <= size <= image_size:
        raise UserError(
            f"dataset.cutout={size} is not possible: choose a whole number from 1 to {image_size}, or null."
        )
    if not augment:
        raise UserError(
            f"dataset.cutout={size} is not used with dataset.augment=false: choose dataset.augment=true, or "
            "dataset.cutout=null."
        )
    return (Cutout(size),)


def _parquet_halves(folder: str, label_column: str, num_classes: int) -> OnDisk:
    halves = {half: find_parquet(folder, half) for half in ("train", "test")}
    for half, files in halves.items():
        if not files:
            raise UserError(f"dataset.parquet={folder} is not possible: looked there for {half}*.parquet.")

    def read() -> Labelled:
        train, test = (read_parquet(files, label_column, num_classes)[:2] for files in halves.values())
        return Labelled.train_test(folder, train, test)

    return OnDisk((), read, version=str(halves))
