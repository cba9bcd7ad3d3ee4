"""``dataset=digits5``: MNIST, SVHN, USPS, SynthDigits and MNIST-M, prepared as FedBN does.

The paper is arXiv 2102.07623 (section 5.1). Each domain is read from the first of these that is in ``data_dir``:

1. FedBN's archive: ``MNIST/partitions/train_part0.pkl`` to ``train_part9.pkl``, and ``MNIST/test.pkl``;
2. ``mnist.npz`` with ``train_images``, ``train_labels``, ``test_images``, ``test_labels``, whose split is used;
3. the official files of MNIST (the four idx files, compressed or not, in ``MNIST/raw``, ``MNIST`` or ``data_dir``
   itself), SVHN and USPS, fetched first with ``download=true``: the official sets are pooled and split 80 to 20,
   stratified by class with seed 0.

The first 7438 training images of a domain are its pool, of which ``share`` is trained on: 743 at 0.1. Images are
28x28 with three channels, normalized to plus or minus one. A name beyond the five is a domain if its ``.npz`` is there.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torchvision.datasets import MNIST, SVHN, USPS

from datasets.readers.arrays import check_range, checked_arrays, read_npz
from datasets.readers.decode import load_source
from datasets.readers.finding import (
    check_domains,
    check_share,
    data_folder,
    looked_for,
    missing_domains,
    present,
    share_of,
)
from datasets.readers.idx import idx_set
from datasets.readers.labelled import Labelled, OnDisk, Pixels, reading
from datasets.readers.pickles import read_arrays
from datasets.readers.torchvision_files import HALVES, OfficialSet
from datasets.source import Indices, Source
from datasets.transforms import PLUS_MINUS_ONE
from fedsim.core.errors import UserError

POOL = 7438
"""Number of training images of USPS, the smallest domain; the others are cut to the same number."""
PARTITIONS = 10
CLASSES = tuple(map(str, range(10)))

ARCHIVE = {"mnist": "MNIST", "svhn": "SVHN", "usps": "USPS", "synth_digits": "SynthDigits", "mnist_m": "MNIST_M"}
"""Folders of FedBN's archive."""
OFFICIAL = {
    "mnist": idx_set(MNIST, "MNIST/raw"),
    "svhn": OfficialSet(SVHN, ("train_32x32.mat", "test_32x32.mat"), {"split": "train"}, {"split": "test"}),
    "usps": OfficialSet(USPS, ("usps.bz2", "usps.t.bz2"), *HALVES),
}


def load(
    data_dir: Path | None,
    download: bool,
    domains: Sequence[str] = tuple(ARCHIVE),
    share: float = 0.1,
    image_size: int = 28,
) -> Source:
    """Load the source, with ``share`` of each domain's training pool and all of its test images.

    Raises:
        UserError: If a domain is missing, with the files that were looked for, or a file is damaged.
    """
    check_share("share", share)
    names = check_domains(domains)
    folder = data_folder("digits5", data_dir, "MNIST/partitions, mnist.npz or MNIST's own files", make=download)
    forms = {name: _forms(name, folder, download) for name in names}
    found = {name: form for name in names if (form := present(forms[name]))}
    missing = [name for name in names if name not in found]
    if missing:
        fetched = [name for name in missing if name in OFFICIAL and not download]
        fetch = f", download=true to fetch {' and '.join(fetched)}" if fetched else ""
        raise missing_domains(missing, looked_for(forms[missing[0]]), list(found), fetch=fetch)
    source = load_source("digits5", found, CLASSES, image_size=image_size, transform=PLUS_MINUS_ONE)
    return source.limited(train=[share_of("share", share, POOL, source.domain_names[0])] * len(found))


def _forms(name: str, folder: Path, download: bool) -> list[OnDisk]:
    forms = []
    if name in ARCHIVE:
        forms.append(_archive(folder / ARCHIVE[name]))
    npz = folder / f"{name}.npz"
    forms.append(OnDisk((npz,), lambda: read_npz(npz).capped(POOL)))
    if name in OFFICIAL:
        official = OFFICIAL[name]
        if download and not any(form.is_there() for form in forms):
            official.download(folder)
        read = partial(_read_pooled, official, folder)
        forms.append(OnDisk(official.files(folder), read, looked_for=official.looked_for(folder)))
    return forms


def _read_pooled(official: OfficialSet, folder: Path) -> Labelled:
    return official.read_pooled(folder).capped(POOL)


def _archive(folder: Path) -> OnDisk:
    first, *others = (folder / "partitions" / f"train_part{number}.pkl" for number in range(PARTITIONS))
    present = []
    for part in others:
        if not part.is_file():
            break
        present.append(part)
    train, test = [first, *present], folder / "test.pkl"
    return OnDisk((*train, test), partial(_read_archive, train, test))


def _read_archive(train: Sequence[Path], test: Path) -> Labelled:
    """Read the partitions of FedBN's archive as one training set, in their order, and its test set."""
    parts = [_read_pair(path) for path in train]
    first = parts[0][0].shape[1:]
    for path, (images, _) in zip(train, parts, strict=True):
        if images.shape[1:] != first:
            raise UserError(f"{path} holds images of {images.shape[1:]}: those of {train[0].name} are of {first}.")
    pool = tuple(np.concatenate(each) for each in zip(*parts, strict=True))
    return Labelled.train_test(str(train[0].parent.parent), (pool[0], pool[1]), _read_pair(test))


def _read_pair(path: Path) -> tuple[Pixels, Indices]:
    with reading(path):
        images, labels = read_arrays(path)
        pair = checked_arrays(str(path), "images", images, "labels", np.asarray(labels).squeeze())
        check_range(str(path), pair[1], len(CLASSES))
        return pair
