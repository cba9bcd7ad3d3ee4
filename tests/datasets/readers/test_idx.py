"""The idx files of MNIST and its like, packed and unpacked, wherever they lie."""

import gzip
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.readers.idx import read_idx
from datasets.source import Part, Source
from fedsim.core.errors import UserError
from tests import harms

Load, Pictures = Callable[..., Source], Callable[..., tuple[np.ndarray, np.ndarray]]
MNIST = ("dataset=digits5", "dataset.domains=[mnist]", "dataset.share=1")


def packed(folder: Path) -> None:
    for file in list(folder.iterdir()):
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()


@pytest.mark.parametrize("place", ["MNIST/raw", "MNIST", "."])
def test_packed_files_of_mnist_are_read_as_unpacked_ones(
    place: str, tmp_path: Path, load: Load, pictures: Pictures, write: Any
) -> None:
    halves = pictures(50, 28, 28), pictures(20, 28, 28, seed=1)
    write.write_mnist(tmp_path / "MNIST" / "raw", *halves)
    unpacked = load(*MNIST, f"data_dir={tmp_path}")
    other = tmp_path / "other"
    write.write_mnist(other / place, *halves)
    packed(other / place)
    source = load(*MNIST, f"data_dir={other}")
    assert np.array_equal(source.images, unpacked.images)
    assert np.array_equal(source.labels, unpacked.labels)


@pytest.mark.parametrize("place", ["FashionMNIST/raw", "FashionMNIST", "."])
def test_packed_files_of_fashion_mnist_are_its_official_halves(
    place: str, tmp_path: Path, load: Load, pictures: Pictures, write: Any
) -> None:
    train, test = pictures(50, 28, 28), pictures(20, 28, 28, seed=1)
    write.write_mnist(tmp_path / place, train, test)
    packed(tmp_path / place)
    source = load("dataset=fashion_mnist", f"data_dir={tmp_path}")
    for part, (images, labels) in ((Part.TRAIN, train), (Part.TEST, test)):
        rows = source.indices(0, part)
        assert np.array_equal(source.images[rows, 0], images)
        assert np.array_equal(source.labels[rows], labels)


def test_packed_and_unpacked_files_and_the_names_of_common_copies_mix(
    tmp_path: Path, load: Load, pictures: Pictures, write: Any
) -> None:
    write.write_mnist(tmp_path, pictures(50, 28, 28), pictures(20, 28, 28, seed=1))
    (tmp_path / "train-labels-idx1-ubyte").rename(tmp_path / "train-labels.idx1-ubyte")
    images = tmp_path / "t10k-images-idx3-ubyte"
    (tmp_path / "t10k-images.idx3-ubyte.gz").write_bytes(gzip.compress(images.read_bytes()))
    images.unlink()
    assert len(load(*MNIST, f"data_dir={tmp_path}").images) == 70


def idx(*shape: int, kind: int = 8, numbers: int | None = None) -> bytes:
    count = int(np.prod(shape)) if numbers is None else numbers
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape) + bytes(count)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (idx(2, 3, 4, numbers=23), r"it holds 39 bytes, and by its first ones it has 40"),
        (idx(2, 3, 4, numbers=25), r"it holds 41 bytes, and by its first ones it has 40"),
        (idx(2, 3, 4, kind=13), r"it does not begin as an idx file of bytes does"),
        (b"", r"it does not begin as an idx file of bytes does"),
        (gzip.compress(idx(2, 3, 4), mtime=0), r"it does not begin as an idx file of bytes does"),
    ],
    ids=["too short", "too long", "of other numbers", "empty", "packed"],
)
def test_another_file_is_named(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "x-ubyte").write_bytes(content)
    with pytest.raises(UserError, match=rf"x-ubyte cannot be read \({sentence}\)\.$"):
        read_idx(tmp_path / "x-ubyte")


def test_a_cut_off_packed_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(idx(20, 30, 40))[:-9])
    with pytest.raises(UserError, match=r"x\.gz cannot be read \(.*end-of-stream"):
        read_idx(tmp_path / "x.gz")


def test_a_packed_file_of_gigabytes_is_refused(tmp_path: Path) -> None:
    harms.bomb(tmp_path / "x.gz", random.Random(0))
    with pytest.raises(UserError, match=r"x\.gz cannot be read \(its \d+ bytes hold more than"):
        read_idx(tmp_path / "x.gz")


def test_labels_of_another_set_are_named(tmp_path: Path, load: Load, pictures: Pictures, write: Any) -> None:
    write.write_mnist(tmp_path, pictures(50, 28, 28), pictures(20, 28, 28, seed=1))
    write.write_idx(tmp_path / "train-labels-idx1-ubyte", np.arange(49) % 10)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte holds an array of \(50, 28, 28\), .* of \(49,\)"):
        load(*MNIST, f"data_dir={tmp_path}")
