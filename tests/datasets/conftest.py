"""Small files of the forms in which data sets lie on disk, with pictures that can be told apart."""

import bz2
import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from datasets.build import build_federation
from datasets.source import Source
from fedsim.config.composition import compose
from fedsim.config.settings import Settings

Arrays = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def load() -> Callable[..., Source]:
    """The source that the words of a command line mean."""

    def loaded(*words: str) -> Source:
        return build_federation(Settings.from_config(compose(words))).source

    return loaded


@pytest.fixture
def pictures() -> Callable[..., Arrays]:
    """Random pictures and labels that hold every class equally often."""

    def make(count: int, *shape: int, classes: int = 10, seed: int = 0) -> Arrays:
        rng = np.random.default_rng(seed)
        return rng.integers(256, size=(count, *shape), dtype=np.uint8), rng.permutation(np.arange(count) % classes)

    return make


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, train: Arrays, test: Arrays) -> None:
    """``root/train-images-idx3-ubyte`` and its three like."""
    for name, (images, labels) in (("train", train), ("t10k", test)):
        write_idx(root / f"{name}-images-idx3-ubyte", images)
        write_idx(root / f"{name}-labels-idx1-ubyte", labels)


def write_svhn(root: Path, train: Arrays, test: Arrays) -> None:
    """Matlab files with the images last and ten in the place of zero."""
    for name, (images, labels) in (("train", train), ("test", test)):
        numbers = np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)
        scipy.io.savemat(root / f"{name}_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": numbers})


def write_usps(root: Path, train: Arrays, test: Arrays) -> None:
    """libsvm lines with labels from one and values from -1 to 1."""
    for name, (images, labels) in (("usps.bz2", train), ("usps.t.bz2", test)):
        lines = []
        for image, label in zip(images, labels, strict=True):
            values = image.flatten() / 255 * 2 - 1
            lines.append(f"{label + 1} " + " ".join(f"{n + 1}:{value:.6f}" for n, value in enumerate(values)))
        (root / name).write_bytes(bz2.compress("\n".join(lines).encode()))


def write_archive(root: Path, train: Arrays, test: Arrays, parts: int = 10, protocol: int = 4) -> None:
    """``root/partitions/train_part0.pkl`` and its like, and ``root/test.pkl``, as FedBN publishes them."""
    (root / "partitions").mkdir(parents=True)
    share = len(train[1]) / parts
    for part in range(parts):
        rows = slice(int(share * part), int(share * (part + 1)))
        pair = (train[0][rows], train[1][rows])
        (root / "partitions" / f"train_part{part}.pkl").write_bytes(pickle.dumps(pair, protocol))
    (root / "test.pkl").write_bytes(pickle.dumps(test, protocol))


def write_npz(path: Path, train: Arrays, test: Arrays, **more: np.ndarray) -> None:
    arrays = {"train_images": train[0], "train_labels": train[1], "test_images": test[0], "test_labels": test[1]}
    np.savez(path, **{**arrays, **more})


def write_cifar(root: Path, train: Arrays, test: Arrays, batches: int = 5) -> None:
    """``cifar-10-batches-py``: pickled rows of 3072 bytes, the red ones first."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [f"data_batch_{number}" for number in range(1, batches + 1)]
    parts = [*zip(names, np.array_split(train[0], batches), np.array_split(train[1], batches), strict=True)]
    for name, images, labels in [*parts, ("test_batch", *test)]:
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": labels.tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))


def write_folders(
    root: Path, domains: dict[str, dict[str, int]], size: tuple[int, int] = (24, 16), seed: int = 0
) -> None:
    """``DOMAIN/CLASS/NUMBER.png``: pictures of one colour each, all different."""
    rng = np.random.default_rng(seed)
    for domain, classes in domains.items():
        for name, count in classes.items():
            (root / domain / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                colour = tuple(int(value) for value in rng.integers(256, size=3))
                Image.new("RGB", size, colour).save(root / domain / name / f"{number:03}.png")


def unpack_gz(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.decompress(source.read_bytes()))


@pytest.fixture
def write() -> type:
    """The functions above by name, since test files cannot import this one."""
    return type(
        "Write",
        (),
        {name: staticmethod(each) for name, each in globals().items() if name.startswith(("write_", "unpack"))},
    )
