"""The five sets of digits: every form on disk, FedBN's preparation, and what is missing or damaged."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image
from sklearn.model_selection import StratifiedShuffleSplit
from torchvision.transforms import functional as TF

from datasets import digits5
from datasets.source import Part, Source
from fedsim.core.errors import UserError

Load, Pictures = Callable[..., Source], Callable[..., tuple[np.ndarray, np.ndarray]]


def of(source: Source, domain: str, part: Part) -> tuple[np.ndarray, np.ndarray]:
    rows = source.indices(source.domain_names.index(domain), part)
    return source.images[rows], source.labels[rows]


def prepared(images: np.ndarray) -> np.ndarray:
    """FedBN's transforms before normalization, by torchvision, image by image."""
    done = []
    for image in images:
        picture = TF.resize(Image.fromarray(image), [28, 28])
        done.append(np.asarray(TF.to_grayscale(picture, 3) if image.ndim == 2 else picture).transpose(2, 0, 1))
    return np.stack(done)


def pooled(*halves: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    images, labels = (np.concatenate(each) for each in zip(*halves, strict=True))
    [(train, test)] = StratifiedShuffleSplit(1, test_size=0.2, random_state=0).split(images, labels)
    return images[train], labels[train], images[test], labels[test]


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_the_archive_gives_its_partitions_in_order(
    protocol: int, tmp_path: Path, load: Load, pictures: Pictures, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digits5, "POOL", 87)
    train, test = pictures(87, 32, 32, 3), pictures(20, 32, 32, 3, seed=1)
    write.write_archive(tmp_path / "SynthDigits", train, test, protocol=protocol)
    write.write_archive(tmp_path / "MNIST", (train[0][..., 0], train[1]), (test[0][..., 0], test[1]), protocol=protocol)
    source = load(
        "dataset=digits5", f"data_dir={tmp_path}", "dataset.domains=[synth_digits,mnist]", "dataset.share=0.3"
    )
    assert source.domain_names == ("synth_digits", "mnist")
    assert source.image_shape == (3, 28, 28)
    images, labels = of(source, "synth_digits", Part.TRAIN)
    assert len(images) == int(87 * 0.3)
    assert np.array_equal(images, prepared(train[0][: len(images)]))
    assert np.array_equal(labels, train[1][: len(images)])
    assert np.array_equal(of(source, "mnist", Part.TRAIN)[0], prepared(train[0][: len(images), ..., 0]))
    assert np.array_equal(of(source, "mnist", Part.TEST)[0], prepared(test[0][..., 0]))
    assert np.array_equal(of(source, "synth_digits", Part.TEST)[1], test[1])


@pytest.mark.parametrize(("domain", "shape"), [("mnist", (28, 28)), ("svhn", (32, 32, 3)), ("usps", (16, 16))])
def test_torchvisions_files_are_pooled_and_split_anew(
    domain: str,
    shape: tuple[int, ...],
    tmp_path: Path,
    load: Load,
    pictures: Pictures,
    write: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)  # of the published files
    train, test = pictures(90, *shape), pictures(30, *shape, seed=1)
    writer = {"mnist": write.write_mnist, "svhn": write.write_svhn, "usps": write.write_usps}[domain]
    writer(tmp_path / "MNIST" / "raw" if domain == "mnist" else tmp_path, train, test)
    source = load("dataset=digits5", f"data_dir={tmp_path}", f"dataset.domains=[{domain}]", "dataset.share=1")
    if domain == "usps":  # torchvision cuts the values of the text to whole numbers
        train, test = (
            (np.floor((images / 255 * 2 - 1).round(6) / 2 * 255 + 127.5).astype(np.uint8), labels)
            for images, labels in (train, test)
        )
    train_images, train_labels, test_images, test_labels = pooled(train, test)
    images, labels = of(source, domain, Part.TRAIN)
    assert np.array_equal(labels, train_labels)
    difference = np.abs(images.astype(int) - prepared(train_images))
    assert difference.max() <= (1 if domain == "usps" else 0)
    assert np.array_equal(of(source, domain, Part.TEST)[1], test_labels)
    assert np.abs(of(source, domain, Part.TEST)[0].astype(int) - prepared(test_images)).max() <= (domain == "usps")


def test_the_archive_comes_before_the_npz_and_that_before_torchvisions_files(
    tmp_path: Path, load: Load, pictures: Pictures, write: Any
) -> None:
    words = ("dataset=digits5", f"data_dir={tmp_path}", "dataset.domains=[mnist]", "dataset.share=1")
    halves = pictures(50, 28, 28), pictures(20, 28, 28, seed=1)
    write.write_mnist(tmp_path / "MNIST" / "raw", *halves)
    assert len(of(load(*words), "mnist", Part.TRAIN)[0]) == 56
    write.write_npz(tmp_path / "mnist.npz", *halves)
    source = load(*words)
    assert np.array_equal(of(source, "mnist", Part.TRAIN)[0], prepared(halves[0][0]))
    assert len(of(source, "mnist", Part.TEST)[0]) == 20
    write.write_archive(tmp_path / "MNIST", pictures(30, 28, 28, seed=2), halves[1])
    assert len(of(load(*words), "mnist", Part.TRAIN)[0]) == 30


def test_a_name_of_ones_own_is_a_domain_if_its_npz_is_there(
    tmp_path: Path, load: Load, pictures: Pictures, write: Any
) -> None:
    write.write_npz(tmp_path / "fonts.npz", pictures(40, 32, 32), pictures(10, 32, 32))
    write.write_npz(tmp_path / "mnist.npz", pictures(40, 28, 28), pictures(10, 28, 28))
    source = load("dataset=digits5", f"data_dir={tmp_path}", "dataset.domains=[fonts,mnist]", "dataset.image_size=20")
    assert source.domain_names == ("fonts", "mnist")
    assert source.image_shape == (3, 20, 20)


def test_a_changed_file_is_read_again(tmp_path: Path, load: Load, pictures: Pictures, write: Any) -> None:
    words = ("dataset=digits5", f"data_dir={tmp_path}", "dataset.domains=[mnist]")
    file = tmp_path / "mnist.npz"
    write.write_npz(file, pictures(40, 28, 28), pictures(10, 28, 28))
    before = load(*words).images.copy()
    assert np.array_equal(load(*words).images, before)
    write.write_npz(file, pictures(40, 28, 28, seed=5), pictures(10, 28, 28))
    os.utime(file, (1, 1))
    assert not np.array_equal(load(*words).images, before)


def test_download_fetches_what_is_missing(
    tmp_path: Path, load: Load, pictures: Pictures, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(self: Any) -> None:
        asked.append(self.root)
        write.write_mnist(Path(self.raw_folder), pictures(50, 28, 28), pictures(20, 28, 28, seed=1))

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", fetch)
    words = ("dataset=digits5", f"data_dir={tmp_path / 'new'}", "dataset.domains=[mnist]", "download=true")
    assert len(load(*words).images) == 70
    assert len(load(*words).images) == 70
    assert set(asked) == {str(tmp_path / "new")}
    assert len(asked) == 2  # once for each half, in the first run only


def test_a_download_that_fails_is_one_sentence(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> None:
        raise RuntimeError("no route\nto host")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", fail)
    with pytest.raises(UserError, match=r"^download=true: MNIST into .* cannot be read \(no route to host\)\.$"):
        load("dataset=digits5", f"data_dir={tmp_path}", "dataset.domains=[mnist]", "download=true")


class Code:
    """What a pickle can hold beside arrays."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["WOULD_BE_MADE"],)


def damaged(kind: str, path: Path, write: Any, pictures: Pictures) -> None:
    images, labels = pictures(30, 28, 28)
    test = pictures(10, 28, 28)
    arrays = {"train_images": images, "train_labels": labels, "test_images": test[0], "test_labels": test[1]}
    change: dict[str, dict[str, Any]] = {
        "float images": {"train_images": images / 255},
        "flat images": {"train_images": images.reshape(30, -1)},
        "two channels": {"test_images": np.zeros((10, 28, 28, 2), np.uint8)},
        "fewer labels": {"train_labels": labels[:-1]},
        "float labels": {"train_labels": labels / 2},
        "label out of range": {"test_labels": test[1] + 1},
        "negative label": {"train_labels": labels - 1},
        "no pixels": {"train_images": np.zeros((30, 0, 28), np.uint8)},
        "nothing to train on": {"train_images": images[:0], "train_labels": labels[:0]},
        "nothing to test on": {"test_images": test[0][:0], "test_labels": test[1][:0]},
    }
    if kind == "cut off":
        np.savez(path, **arrays)
        path.write_bytes(path.read_bytes()[:-400])
    elif kind == "missing array":
        del arrays["test_labels"]
        np.savez(path, **arrays)
    elif kind == "objects":
        np.savez(path, **{**arrays, "train_labels": np.array([Code()] * 30, object)}, allow_pickle=True)
    else:
        np.savez(path, **{**arrays, **change[kind]})


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("float images", r"train_images of float64 \(30, 28, 28\): they must be uint8"),
        ("flat images", r"train_images of uint8 \(30, 784\)"),
        ("two channels", r"test_images of uint8 \(10, 28, 28, 2\)"),
        ("fewer labels", r"train_labels of int64 \(29,\): they must be whole numbers of \(30,\)"),
        ("float labels", r"train_labels of float64"),
        ("label out of range", r"the label 10: allowed are 0 to 9"),
        ("negative label", r"the label -1: allowed are 0 to 9"),
        ("no pixels", r"train_images of uint8 \(30, 0, 28\): they must be uint8"),
        ("nothing to train on", "holds no training images"),
        ("nothing to test on", "holds no test images"),
        ("cut off", "cannot be read"),
        ("missing array", "holds no test_labels: it needs train_images"),
        ("objects", "cannot be read"),
    ],
)
def test_a_damaged_npz_is_named(
    kind: str,
    sentence: str,
    tmp_path: Path,
    load: Load,
    pictures: Pictures,
    write: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WOULD_BE_MADE", str(tmp_path / "made"))
    damaged(kind, tmp_path / "mnist.npz", write, pictures)
    with pytest.raises(UserError, match=rf"mnist\.npz.* {sentence}") as raised:
        load("dataset=digits5", f"data_dir={tmp_path}", "dataset.domains=[mnist]")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (Code(), r"it asks for posix\.mkdir, and only arrays are allowed"),
        ((np.zeros((3, 28, 28), np.uint8), Code()), "only arrays are allowed"),
        ((np.zeros((3, 28, 28)), np.arange(3)), r"images of float64"),
        ((np.zeros((3, 28, 28), np.uint8), np.arange(4)), r"labels of int64 \(4,\)"),
        ((np.zeros((3, 28, 28), np.uint8), np.arange(8, 11)), r"the label 10: allowed are 0 to 9"),
        ("text", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_pickle_that_is_not_two_arrays_is_refused_and_runs_nothing(
    content: Any,
    sentence: str,
    tmp_path: Path,
    load: Load,
    pictures: Pictures,
    write: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WOULD_BE_MADE", str(tmp_path / "made"))
    write.write_archive(tmp_path / "MNIST", pictures(30, 28, 28), pictures(10, 28, 28))
    (tmp_path / "MNIST" / "test.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=rf"test\.pkl.*{sentence}") as raised:
        load("dataset=digits5", f"data_dir={tmp_path}", "dataset.domains=[mnist]")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "made").exists()


def test_partitions_of_different_shapes_are_named(tmp_path: Path, load: Load, pictures: Pictures, write: Any) -> None:
    write.write_archive(tmp_path / "MNIST", pictures(30, 28, 28), pictures(10, 28, 28))
    (tmp_path / "MNIST" / "partitions" / "train_part3.pkl").write_bytes(pickle.dumps(pictures(3, 32, 32)))
    with pytest.raises(
        UserError, match=r"part3\.pkl holds images of \(32, 32\): those of train_part0\.pkl are of \(28, 28"
    ):
        load("dataset=digits5", f"data_dir={tmp_path}", "dataset.domains=[mnist]")


def test_a_share_that_leaves_no_training_image_is_refused(
    tmp_path: Path, load: Load, pictures: Pictures, write: Any
) -> None:
    write.write_npz(tmp_path / "mnist.npz", pictures(40, 28, 28), pictures(10, 28, 28))
    with pytest.raises(
        UserError, match=r"^dataset\.share=0\.0001 leaves the domain mnist none of its 7438 .* at least 0\.000135,"
    ):
        load("dataset=digits5", f"data_dir={tmp_path}", "dataset.domains=[mnist]", "dataset.share=0.0001")
    load("dataset=digits5", f"data_dir={tmp_path}", "dataset.domains=[mnist]", "dataset.share=0.000135")


def test_cut_off_files_of_torchvision_are_named(tmp_path: Path, load: Load, pictures: Pictures, write: Any) -> None:
    write.write_mnist(tmp_path / "MNIST" / "raw", pictures(50, 28, 28), pictures(20, 28, 28))
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r"t10k-images-idx3-ubyte cannot be read \(it holds 15596 bytes, and by its f.* 15696\)"
    ):
        load("dataset=digits5", f"data_dir={tmp_path}", "dataset.domains=[mnist]")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["dataset.domains=[mnist]"],
            r"the domain mnist is not there: looked for .*MNIST/partitions/train_part0\.pkl and "
            r".*MNIST/test\.pkl, or .*mnist\.npz, or train-images-idx3-ubyte and its three like, each also as \.gz, in "
            r".*MNIST/raw or .*MNIST or .*; choose the data_dir that has all of them, download=true to fetch mnist\.$",
        ),
        (
            ["dataset.domains=[synth_digits]"],
            r"the domain synth_digits is not there: looked for .*, or .*synth_digits\.npz; choose the data_dir that",
        ),
        (
            ["dataset.domains=[letters]"],
            r"the domain letters is not there: looked for [^,]*letters\.npz; choose the data_dir that .*\.$",
        ),
        (["dataset.domains=[]"], r"dataset\.domains=\[\] is not possible: choose a list of names"),
        (["dataset.domains=mnist"], r"dataset\.domains=mnist is not possible: choose a list of names"),
        (["dataset.domains=[mnist,mnist]"], r"dataset\.domains=.* is not possible: choose a list of names, each once"),
        (["dataset.share=0"], r"dataset\.share=0 is not possible: choose a number above 0 and at most 1"),
        (["dataset.share=1.5"], r"dataset\.share=1\.5 is not possible"),
        (["data_dir=null"], r"dataset=digits5 is read from data_dir=null: choose the folder that holds MNIST/part"),
        (["data_dir=/nowhere/at/all"], r"data_dir=/nowhere/at/all is not a folder: choose the one that holds"),
    ],
)
def test_what_is_not_there_or_not_possible_is_said(words: list[str], sentence: str, tmp_path: Path, load: Load) -> None:
    with pytest.raises(UserError, match=f"^{sentence}"):
        load("dataset=digits5", f"data_dir={tmp_path}", *words)


def test_the_domains_that_were_found_are_advised_and_the_advice_is_accepted(
    tmp_path: Path, load: Load, pictures: Pictures, write: Any
) -> None:
    for name in ("mnist", "usps", "mnist_m"):
        write.write_npz(tmp_path / f"{name}.npz", pictures(40, 28, 28), pictures(10, 28, 28))
    with pytest.raises(UserError) as raised:
        load("experiment=fedbn_digits5", f"data_dir={tmp_path}")
    said = str(raised.value)
    assert said.startswith("the domains svhn, synth_digits are not there: for svhn, looked for ")
    assert f"{tmp_path / 'svhn.npz'}, or {tmp_path / 'train_32x32.mat'} and {tmp_path / 'test_32x32.mat'};" in said
    assert "download=true to fetch svhn" in said
    advised = re.search(r"dataset\.domains=\[\S*\]", said)
    assert advised is not None
    source = load("experiment=fedbn_digits5", f"data_dir={tmp_path}", advised[0])
    assert source.domain_names == ("mnist", "usps", "mnist_m")


def test_an_image_size_of_nothing_is_refused(tmp_path: Path, load: Load, pictures: Pictures, write: Any) -> None:
    write.write_npz(tmp_path / "mnist.npz", pictures(40, 28, 28), pictures(10, 28, 28))
    with pytest.raises(UserError, match=r"^dataset\.image_size=0 is not possible"):
        load("dataset=digits5", f"data_dir={tmp_path}", "dataset.domains=[mnist]", "dataset.image_size=0")
