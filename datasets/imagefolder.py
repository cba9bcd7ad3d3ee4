"""``dataset=imagefolder``: any folder ``DOMAIN/CLASS/*.jpg``, without any code.

Domains and classes are the folders' names, in alphabetical order; a domain may lack a class. The images of a class may
be in folders inside its own. Names that differ only in how macOS and Linux write an accent are one class. Each domain
is split 80 to 20, stratified by class with seed 0. Images are resized to a square, normalized with ImageNet's mean and
deviation, and flipped in training where ``augment`` is true.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from datasets.readers.decode import load_source
from datasets.readers.domain_folders import find_domain, share_of_each
from datasets.readers.finding import check_domains, data_folder, missing_domains
from datasets.readers.labelled import reading
from datasets.readers.listing import loose_images, subfolders, told
from datasets.source import Source
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, HorizontalFlip, Transform
from fedsim.core.errors import UserError
from fedsim.core.names import all_readable, find_name, readable

log = logging.getLogger(__name__)


def load(
    data_dir: Path | None,
    domains: Sequence[str] | None = None,
    share: float | None = None,
    image_size: int = 64,
    augment: bool = True,
) -> Source:
    """Load all domains of a folder, or those in ``domains``.

    Raises:
        UserError: If a domain is missing, or a file is damaged.
    """
    folder = data_folder("imagefolder", data_dir, "a folder for each domain, and in it one for each class")
    asked = None if domains is None else check_domains(domains)
    known = subfolders(folder, asked)
    there = {each: find_name(each, known) for each in asked or known}
    _tell_of_images_in_no_domain(folder)
    missing = [name for name, found in there.items() if found is None]
    if missing:
        hint = " (a name that reads as a number needs quotes, as '[\"1_000\"]')" if missing[0].isdecimal() else ""
        here = [name for name, found in there.items() if found is not None] or _folders(folder)
        raise missing_domains(missing, f"the folder {folder / missing[0]}{hint}", here)
    names = [name for name in there.values() if name is not None]
    classes = {name: subfolders(folder / name) for name in names}
    class_names = sorted({readable(each) for mine in classes.values() for each in mine})
    if not class_names:
        raise UserError(f"data_dir={folder} holds no DOMAIN/CLASS folders: choose a folder that does.")
    for name, mine in classes.items():
        if not mine:
            raise UserError(f"{folder / name} holds no CLASS folders: fill it, or name the others in dataset.domains.")
        all_readable(f"classes of {folder / name}", mine)
    found = {
        name: find_domain(folder, name, {each: class_names.index(readable(each)) for each in mine})
        for name, mine in classes.items()
    }
    transform = Transform(IMAGENET_MEAN, IMAGENET_STD, (HorizontalFlip(),) if augment else ())
    source = load_source("imagefolder", found, class_names, image_size=image_size, transform=transform)
    return share_of_each(source, share)


def _folders(folder: Path) -> list[str]:
    """Return the names of all visible folders, which may be domains, whatever they contain."""
    with reading(folder):
        names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return list(map(readable, names))


def _tell_of_images_in_no_domain(folder: Path) -> None:
    loose = loose_images(folder)
    if loose:
        log.warning("%d images lie beside the folders of the domains and are left out: %s", len(loose), told(loose))
