"""Sets of several domains as image files: ``DOMAIN/CLASS/*.jpg``, with FedBN's lists of a split where they are present.

FedBN publishes for Office-Caltech-10 and DomainNet a ``DOMAIN_train.pkl`` and ``DOMAIN_test.pkl`` with the paths and
class names of a stratified 80/20 split. Where they are beside the folders, they determine the split and the order.
Otherwise the split is made here by the same rule (80/20, stratified by class, seed 0), with another result than the
lists.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from datasets.readers.decode import load_source
from datasets.readers.finding import check_domains, check_share, data_folder, missing_domains, share_of
from datasets.readers.image_folder import image_paths, listed, split_folder
from datasets.readers.labelled import OnDisk, reading
from datasets.readers.pickles import read_arrays
from datasets.source import Indices, Source
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, Augmentation, Transform
from fedsim.core.errors import UserError


@dataclass(frozen=True)
class DomainFolders:
    """A set whose domains and classes are known; one of its ``load``s is what ``dataset=`` calls."""

    dataset: str
    folder: str
    """The name of the set's folder: the domains are in ``data_dir`` or in this folder of it"""
    domains: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]
    """For each label the names of its class: the first is the official one, the others those of common copies"""
    augmentations: tuple[Augmentation, ...]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def load(
        self, data_dir: Path | None, domains: Sequence[str], share: float | None, image_size: int, augment: bool
    ) -> Source:
        """Return the source of these domains, with the first ``share`` of each one's training images.

        Raises:
            UserError: For a domain or a class that is not there, or a damaged file.
        """
        return share_of_each(self._all_images(data_dir, domains, image_size, augment), share)

    def load_equal_domains(
        self,
        data_dir: Path | None,
        domains: Sequence[str],
        share: float | None,
        validation_share: float | None,
        image_size: int,
        augment: bool,
    ) -> Source:
        """Return the source of these domains, each with as many training images as the others (``share_of_smallest``).

        Raises:
            UserError: For a domain or a class that is not there, or a damaged file.
        """
        source = self._all_images(data_dir, domains, image_size, augment)
        return share_of_smallest(source, share, validation_share)

    def _all_images(self, data_dir: Path | None, domains: Sequence[str], image_size: int, augment: bool) -> Source:
        names = check_domains(domains)
        for name in names:
            if name not in self.domains:
                raise UserError(f"dataset.domains={name} is not possible: choose from {', '.join(self.domains)}.")
        root = self._root(
            data_folder(self.dataset, data_dir, f"the folders {names[0]}/{self.classes[0][0]} and their like"), names
        )
        labels = {name: label for label, each in enumerate(self.classes) for name in each}
        found = {name: find_domain(root, name, labels) for name in names}
        class_names = [each[0] for each in self.classes]
        transform = Transform(self.mean, self.std, self.augmentations if augment else ())
        return load_source(self.dataset, found, class_names, image_size=image_size, transform=transform)

    def _root(self, data_dir: Path, domains: Sequence[str]) -> Path:
        found: list[str] = []
        for root in (data_dir, data_dir / self.folder):
            with reading(root):
                here = [domain for domain in domains if (root / domain).is_dir()]
            if len(here) == len(domains):
                return root
            found = max(found, here, key=len)
        missing = [domain for domain in domains if domain not in found]
        places = f"the folders {data_dir / missing[0]} and {data_dir / self.folder / missing[0]}"
        raise missing_domains(missing, places, found)


def share_of_smallest(source: Source, share: float | None, validation_share: float | None) -> Source:
    """Return a source with the same number of training images in every domain, as FedBN does.

    Args:
        source: All images.
        share: The share of the smallest domain's training images, from the front of each domain's list; ``None`` for
            all of each domain.
        validation_share: The share of the smallest domain's training images for validation, from the end of each
            domain's list.

    Raises:
        UserError: If a share is not possible, or both are more than the images of the smallest domain.
    """
    check_share("share", share)
    check_share("validation_share", validation_share)
    if share is None:
        return source
    sizes = source.training_sizes()
    domains, smallest = len(sizes), min(sizes)
    name = source.domain_names[sizes.index(smallest)]
    train = share_of("share", share, smallest, name)
    validation = 0
    if validation_share is not None:
        validation = share_of("validation_share", validation_share, smallest, name)
    if train + validation > smallest:
        raise UserError(
            f"dataset.share={share} and dataset.validation_share={validation_share} are more than the "
            f"{smallest} training images of the domain {name}: choose shares of at most 1 together, or "
            "dataset.validation_share=null."
        )
    return source.limited([train] * domains, [validation] * domains)


def share_of_each(source: Source, share: float | None) -> Source:
    """Return a source with the first ``share`` of every domain's training images; ``None`` for all.

    Raises:
        UserError: If the share is not possible, or leaves a domain no image.
    """
    check_share("share", share)
    if share is None:
        return source
    sizes = zip(source.training_sizes(), source.domain_names, strict=True)
    return source.limited([share_of("share", share, size, name) for size, name in sizes])


def find_domain(root: Path, domain: str, classes: Mapping[str, int]) -> OnDisk:
    """Return a domain's images, those of its lists or else all in its folder; ``classes`` maps class names to labels.

    A class may have several names.

    Raises:
        UserError: If one of the two lists is missing, or a class or a listed file is.
    """
    lists = tuple(root / f"{domain}_{half}.pkl" for half in ("train", "test"))
    there = [path for path in lists if path.is_file()]
    if len(there) == 1:
        raise UserError(
            f"{there[0]} is there and {next(path for path in lists if path not in there).name} is not: put both lists "
            "of the split there, or neither."
        )
    if there:
        train, test = (_read_list(path, root, classes) for path in lists)
        files = (*lists, *train[0], *test[0])
        return OnDisk(files, partial(listed, root / domain, train, test))
    folders = _folders(root / domain, classes)
    found = image_paths(root / domain, folders)
    read = partial(split_folder, root / domain, found)
    return OnDisk(tuple(found.labels), read, left_out=found.left_out, deeper=found.deeper)


def _folders(domain: Path, classes: Mapping[str, int]) -> dict[str, int]:
    """Return the folder of each label: of the names of a class the one that exists, or else the first."""
    names: dict[int, list[str]] = {}
    for name, label in classes.items():
        names.setdefault(label, []).append(name)
    chosen = (next((name for name in each if (domain / name).is_dir()), each[0]) for each in names.values())
    return {name: classes[name] for name in chosen}


def _read_list(path: Path, root: Path, classes: Mapping[str, int]) -> tuple[list[Path], Indices]:
    with reading(path):
        names, texts = read_arrays(path)
        labels = np.array([classes[str(text)] for text in texts], np.int64)
        paths = [_listed_path(root, str(name)) for name in names]
    for file in paths:
        if root not in file.parents or ".." in file.parts[len(root.parts) :]:
            raise UserError(f"{path} lists {file}, which is not in {root}: put back the list that was published.")
        if not file.is_file():
            raise UserError(f"{path} lists {file}, which is not there.")
    if len(paths) != len(labels):
        raise UserError(f"{path} lists {len(paths)} images and {len(labels)} classes: there must be as many.")
    return paths, labels


def _listed_path(root: Path, name: str) -> Path:
    """Return the path of a file in FedBN's lists, where it is ``office_caltech_10/amazon/...``.

    The folder of the data set, with which it begins, may have been renamed.
    """
    return root.joinpath(*Path(name).parts[-3:])
